"""Beam search of one row: the likeliest texts are written side by side, and the best one that has ended is kept.

It chooses as `generate` of transformers does with `num_beams` and its other defaults: the score of a text is the
mean log probability of its tokens.
"""

import math
from collections.abc import Set
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor


class Line(NamedTuple):
    """A text that is being written, or that has ended.

    Attributes:
        tokens: without the end.
        probabilities: of these tokens, and of the end.
        log_probability: of all of them.
        is_ended: whether the model has ended it.
    """

    tokens: tuple[int, ...] = ()
    probabilities: tuple[float, ...] = ()
    log_probability: float = 0.0
    is_ended: bool = False

    @property
    def score(self) -> float:
        """By which lines are compared."""
        return self.log_probability / max(1, len(self.probabilities))


@dataclass
class BeamSearch:
    """The lines of a row.

    Args:
        beams: most lines.
        max_new_tokens: of a line.
        ends: the tokens that end a line.
        lines: the likeliest ones that go on, the likeliest first: a single empty one before the first token.
        finished: the best ones that have ended or are as long as they may be, the best first.
        is_done: whether no line that goes on is likely to become better than those that are finished.
    """

    beams: int
    max_new_tokens: int
    ends: Set[int]
    lines: list[Line] = field(default_factory=lambda: [Line()])
    finished: list[Line] = field(default_factory=list)
    is_done: bool = False

    @property
    def best(self) -> Line:
        """The best line that is finished; while there is none, the likeliest."""
        return (self.finished or self.lines)[0]

    def advance(self, log_probabilities: Tensor) -> list[int]:
        """Append a token to the lines.

        Args:
            log_probabilities: (lines, vocabulary) float32 of the next token; -inf for what may not be written.

        Returns:
            For each of the new `lines`, the index of the old line that it goes on from. Empty if the row is done.
        """
        scores = torch.tensor([line.log_probability for line in self.lines], device=log_probabilities.device)
        totals = (log_probabilities + scores[:, None]).flatten()
        # A line can end in so many ways: enough go on, whichever of them ends.
        count = min(max(2, 1 + len(self.ends)) * self.beams, len(totals))
        values, indices = totals.topk(count)
        chances = log_probabilities.flatten()[indices].exp().tolist()
        vocabulary = log_probabilities.shape[1]
        lines: list[Line] = []
        origins: list[int] = []
        for place, (total, index, chance) in enumerate(
            zip(values.tolist(), indices.tolist(), chances, strict=True)
        ):
            if total == -math.inf:
                continue
            origin, token = divmod(index, vocabulary)
            line = self._longer(self.lines[origin], token, chance, total)
            if not (line.is_ended or len(line.probabilities) >= self.max_new_tokens):
                if len(lines) < self.beams:
                    lines.append(line)
                    origins.append(origin)
            elif place < self.beams:
                self.finished.append(line)
        self.finished = sorted(self.finished, key=lambda line: -line.score)[: self.beams]
        self.lines = lines or self.lines
        is_full = len(self.finished) == self.beams
        self.is_done = not lines or (is_full and lines[0].score <= self.finished[-1].score)
        return [] if self.is_done else origins

    def _longer(self, line: Line, token: int, chance: float, total: float) -> Line:
        is_ended = token in self.ends
        tokens = line.tokens if is_ended else (*line.tokens, token)
        return Line(tokens, (*line.probabilities, chance), total, is_ended)
