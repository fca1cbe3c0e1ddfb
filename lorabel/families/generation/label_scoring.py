"""How likely a model would write each of some short texts, such as labels, after a prompt: in one pass for all.

The tokens of all texts are one tree behind the prompt. Each token sees the prompt and the tokens above it only,
and has the position that it would have in its own text.

    ... assistant:  ─┬─ red ── END          columns: prompt, red, END, light, -blue, END
                     └─ light ── -blue ── END
"""

from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import DynamicCache

from lorabel.contracts import BatchAdapters

# Most tokens of the texts together: each has logits for the whole vocabulary.
MOST_NODES = 1024


@dataclass(frozen=True)
class Branches:
    """Texts as a tree of tokens.

    Args:
        tokens: (nodes,): each after its parent.
        parents: (nodes,): index of the node before; -1 after the prompt.
        depths: (nodes,): 0 after the prompt.
        paths: for each text its nodes.
    """

    tokens: tuple[int, ...]
    parents: tuple[int, ...]
    depths: tuple[int, ...]
    paths: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, texts: Sequence[Sequence[int]]) -> "Branches":
        """Merge the beginnings that texts share.

        Args:
            texts: the tokens of each, its end included; at least one.

        Raises:
            ValueError: there are more than MOST_NODES tokens.
        """
        nodes: dict[tuple[int, int], int] = {}
        depths: list[int] = []
        paths = []
        for text in texts:
            path, parent = [], -1
            for depth, token in enumerate(text):
                if (parent, token) not in nodes:
                    nodes[parent, token] = len(depths)
                    depths.append(depth)
                parent = nodes[parent, token]
                path.append(parent)
            paths.append(tuple(path))
        if len(nodes) > MOST_NODES:
            raise ValueError(f"the labels have {len(nodes)} tokens, expected at most {MOST_NODES}")
        tokens, parents = tuple(token for _, token in nodes), tuple(parent for parent, _ in nodes)
        return cls(tokens, parents, tuple(depths), tuple(paths))

    def mask(self) -> Tensor:
        """(nodes, nodes) bool: what each node sees of the others: those above it, and itself."""
        mask = torch.eye(len(self.tokens), dtype=torch.bool)
        for node, parent in enumerate(self.parents):
            if parent >= 0:
                mask[node] |= mask[parent]
        return mask


class Branched(Protocol):
    """What scoring reads of a prepared input."""

    @property
    def prompt(self) -> Sequence[int]:
        """Return all tokens up to where the model writes."""

    @property
    def branches(self) -> Branches | None:
        """Return the texts; not None here."""


@dataclass(frozen=True)
class Packed:
    """Prompts with their trees as one batch: padded on the left of the prompt, and on the right of the tree.

    Args:
        tokens: (rows, columns) int64.
        positions: (rows, columns) int64.
        mask: (rows, columns, columns) bool: which columns each column sees. Padding sees itself.
        longest: columns of the prompts.
    """

    tokens: Tensor
    positions: Tensor
    mask: Tensor
    longest: int

    @classmethod
    def of(cls, rows: Sequence[Branched], device: torch.device) -> "Packed":
        """Pack rows."""
        longest = max(len(row.prompt) for row in rows)
        trees = [_tree(row) for row in rows]
        columns = longest + max(len(tree.tokens) for tree in trees)
        tokens = torch.zeros(len(rows), columns, dtype=torch.long)
        positions = torch.zeros_like(tokens)
        mask = torch.eye(columns, dtype=torch.bool).repeat(len(rows), 1, 1)
        for index, (row, tree) in enumerate(zip(rows, trees, strict=True)):
            size, nodes = len(row.prompt), len(tree.tokens)
            first, end = longest - size, longest + nodes
            tokens[index, first:end] = torch.tensor([*row.prompt, *tree.tokens])
            positions[index, first:longest] = torch.arange(size)
            positions[index, longest:end] = size + torch.tensor(tree.depths)
            mask[index, first:longest, first:longest] = torch.ones(size, size, dtype=torch.bool).tril()
            mask[index, longest:end, first:longest] = True
            mask[index, longest:end, longest:end] = tree.mask()
        return cls(tokens.to(device), positions.to(device), mask.to(device), longest)


def _tree(row: Branched) -> Branches:
    if row.branches is None:
        raise ValueError("the row has no texts to score")
    return row.branches


def path_scores(rows: Sequence[Branched], logits: Tensor) -> list[Tensor]:
    """Compute the log probability of each text of each row.

    Args:
        logits: (rows, 1 + nodes, vocabulary): after the prompt, then after each node.

    Returns:
        For each row (texts,) float32.
    """
    return [_row_scores(_tree(row), of_row) for row, of_row in zip(rows, logits, strict=True)]


def _row_scores(tree: Branches, logits: Tensor) -> Tensor:
    tokens = torch.tensor(tree.tokens, device=logits.device)
    before = torch.tensor(tree.parents, device=logits.device) + 1
    kept = logits.float()
    at_nodes = kept[before, tokens] - kept[: len(tree.tokens) + 1].logsumexp(-1)[before]
    return torch.stack([at_nodes[list(path)].sum() for path in tree.paths])


def scores(module: Any, rows: Sequence[Branched], device: torch.device) -> list[Tensor]:
    """Compute the log probability of each text of each row in one pass, with gradients; see `path_scores`."""
    packed = Packed.of(rows, device)
    output = module(
        input_ids=packed.tokens,
        attention_mask=packed.mask[:, None],
        position_ids=packed.positions,
        use_cache=False,
        logits_to_keep=packed.tokens.shape[1] - packed.longest + 1,
    )
    return path_scores(rows, output.logits)


@dataclass
class _Batch:
    rows: list[tuple[Hashable, Branched, str | None]]
    packed: Packed
    cache: DynamicCache = field(default_factory=DynamicCache)
    done: int = 0


class Scoring:
    """Rows whose texts are scored, a few together; the prompts are read in parts, as `Decoding` does.

    Args:
        step_tokens: most tokens that one step computes, of the prompts.
        most_rows: most rows that are scored together.
        token_bytes: bytes of the keys and values of one token.
        logits_bytes: bytes of the logits of one token.
    """

    def __init__(
        self,
        module: Any,
        device: torch.device,
        bank: BatchAdapters,
        step_tokens: int,
        most_rows: int,
        token_bytes: int,
        logits_bytes: int,
    ) -> None:
        self._module, self._device, self._bank = module, device, bank
        self._step_tokens, self._most_rows = step_tokens, most_rows
        self._token_bytes, self._logits_bytes = token_bytes, logits_bytes
        self._waiting: deque[tuple[Hashable, Branched, str | None]] = deque()
        self._batch: _Batch | None = None
        self._scores: dict[Hashable, Tensor] = {}

    @property
    def is_busy(self) -> bool:
        """Whether a row is not scored yet."""
        return self._batch is not None or bool(self._waiting)

    def most_bytes(self, *more: Branched) -> int:
        """Return the most bytes that the rows that are not scored yet, and some more, take together.

        These are their keys and values, and the logits of their texts. Only some of them are scored at a time.
        """
        rows = [prepared for _, prepared, _ in (*self._waiting, *(self._batch.rows if self._batch else ()))]
        rows += more
        nodes = [len(_tree(row).tokens) for row in rows]
        most_nodes = max(nodes, default=0)
        columns = max((len(row.prompt) for row in rows), default=0) + most_nodes
        row_bytes = columns * self._token_bytes + (1 + most_nodes) * self._logits_bytes
        return min(len(rows), self._most_rows) * row_bytes

    def begin(self, row: Hashable, prepared_input: Branched, adapter: str | None) -> None:
        """Let a row join; see `Steps.begin`."""
        self._waiting.append((row, prepared_input, adapter))

    @torch.inference_mode()
    def step(self) -> list[Hashable]:
        """Compute the next part of the rows; see `Steps.step`. Returns the rows that are scored."""
        if self._batch is None:
            rows = [self._waiting.popleft() for _ in range(min(len(self._waiting), self._most_rows))]
            if not rows:
                return []
            self._batch = _Batch(rows, Packed.of([prepared for _, prepared, _ in rows], self._device))
        batch = self._batch
        try:
            logits = self._forward(batch)
        except Exception:
            # What the layers have read is unknown, so the rows begin again.
            self._waiting.extendleft(reversed(batch.rows))
            self._batch = None
            raise
        if logits is None:
            return []
        self._batch = None
        scores = path_scores([prepared for _, prepared, _ in batch.rows], logits)
        self._scores |= {row: each for (row, _, _), each in zip(batch.rows, scores, strict=True)}
        return [row for row, _, _ in batch.rows]

    def finish(self, row: Hashable) -> Tensor:
        """Return the log probability of each text of a row that is scored."""
        return self._scores.pop(row)

    def leave(self, row: Hashable) -> None:
        """Let a row leave; see `Steps.leave`."""
        self._scores.pop(row, None)
        self._waiting = deque(each for each in self._waiting if each[0] != row)
        if self._batch is not None and any(each[0] == row for each in self._batch.rows):
            # Rarely worth cutting the row out of the cache: the few others begin again.
            self._waiting.extendleft(each for each in reversed(self._batch.rows) if each[0] != row)
            self._batch = None

    def _forward(self, batch: _Batch) -> Tensor | None:
        """Compute the next columns: of the prompts, or the last of them with the trees. Returns the logits of the
        trees."""
        packed, first = batch.packed, batch.done
        # The last column of the prompts says what comes first, so it goes with the trees.
        left = packed.longest - 1 - first
        is_last = left <= 0
        end = packed.tokens.shape[1] if is_last else first + min(left, self._columns(batch))
        model: Callable[..., Any] = self._module if is_last else self._module.get_decoder()
        with self._bank.use([adapter for _, _, adapter in batch.rows]):
            output = model(
                input_ids=packed.tokens[:, first:end],
                attention_mask=packed.mask[:, None, first:end, :end],
                position_ids=packed.positions[:, first:end],
                past_key_values=batch.cache,
                use_cache=True,
            )
        batch.done = end
        return output.logits if is_last else None

    def _columns(self, batch: _Batch) -> int:
        return max(1, self._step_tokens // len(batch.rows))
