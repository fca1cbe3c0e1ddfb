"""Decoding of rows with pictures: before a prompt is read, a step computes the features of one picture."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

from lorabel.contracts import BatchAdapters, Contract
from lorabel.families.generation.decoding import Decoder, Decoding, Draft


class PictureDecoding(Decoding):
    """Rows that are written together; see `Decoding`.

    Args:
        see: computes the features of one picture of a prepared input that lacks them; False if it lacks none.
    """

    def __init__(
        self,
        decoder: Decoder,
        bank: BatchAdapters,
        output: Callable[[Draft], Contract],
        see: Callable[[Any], bool],
    ) -> None:
        super().__init__(decoder, bank, output)
        self._see = see
        self._unseen: list[Draft] = []

    def begin(self, row: Hashable, prepared_input: Any, adapter: str | None) -> None:
        """Let a row join; see `Steps.begin`."""
        super().begin(row, prepared_input, adapter)
        self._unseen.append(self._new.pop())

    def step(self) -> Sequence[Hashable]:
        """Compute the features of a picture, if a row has one without; else see `Decoding.step`."""
        while self._unseen:
            if self._see(self._unseen[0].prepared):
                return ()
            self._new.append(self._unseen.pop(0))
        return super().step()

    def _take_out(self, rows: Sequence[Hashable]) -> None:
        self._unseen = [sequence for sequence in self._unseen if sequence.row not in rows]
        super()._take_out(rows)
