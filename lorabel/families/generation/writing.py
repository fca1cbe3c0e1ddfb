"""Rows that are written, and rows whose labels are scored, in one set of steps."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

from torch import Tensor

from lorabel.contracts import BatchAdapters, Contract
from lorabel.families.generation.decoding import Decoder, Draft
from lorabel.families.generation.label_scoring import Scoring
from lorabel.families.generation.picture_decoding import PictureDecoding


class Writing(PictureDecoding):
    """Decoding that also scores labels; see `Steps`. While there are rows of both, steps are of both in turn.

    Args:
        output: makes the output of a row that is written.
        see: see `PictureDecoding`.
        scoring: scores the rows that have branches.
        scored_output: makes the output of a row from its prepared input and the scores of its texts.
    """

    def __init__(
        self,
        decoder: Decoder,
        bank: BatchAdapters,
        output: Callable[[Draft], Contract],
        see: Callable[[Any], bool],
        scoring: Scoring,
        scored_output: Callable[[Any, Tensor], Contract],
    ) -> None:
        super().__init__(decoder, bank, output, see)
        self._scoring, self._scored_output = scoring, scored_output
        self._scored: dict[Hashable, Any] = {}
        self._order: dict[Hashable, None] = {}
        self._is_scoring_next = True

    @property
    def rows(self) -> Sequence[Hashable]:
        """The rows that are in; see `Steps.rows`."""
        return tuple(self._order)

    def has_room(self, prepared_input: Any) -> bool:
        """Whether what is written and what is scored fit together; see `Steps.has_room`."""
        if not self._order:
            return True
        written, scored = ((), (prepared_input,)) if prepared_input.branches else ((prepared_input,), ())
        most_bytes = self.most_bytes(*written) + self._scoring.most_bytes(*scored)
        return most_bytes <= self._decoder.memory_bytes

    def begin(self, row: Hashable, prepared_input: Any, adapter: str | None) -> None:
        """Let a row join; see `Steps.begin`."""
        if prepared_input.branches is None:
            super().begin(row, prepared_input, adapter)
        else:
            self._scored[row] = prepared_input
            self._scoring.begin(row, prepared_input, adapter)
        self._order[row] = None

    def step(self) -> Sequence[Hashable]:
        """Compute the next step; see `Steps.step`."""
        is_scoring = self._scoring.is_busy and (self._is_scoring_next or not super().rows)
        self._is_scoring_next = not is_scoring
        return self._scoring.step() if is_scoring else super().step()

    def finish(self, row: Hashable) -> Contract:
        """Return the output of a row, which leaves; see `Steps.finish`."""
        if row not in self._scored:
            return super().finish(row)
        del self._order[row]
        return self._scored_output(self._scored.pop(row), self._scoring.finish(row))

    def leave(self, row: Hashable) -> None:
        """Let a row leave; see `Steps.leave`."""
        del self._order[row]
        if self._scored.pop(row, None) is None:
            super().leave(row)
        else:
            self._scoring.leave(row)
