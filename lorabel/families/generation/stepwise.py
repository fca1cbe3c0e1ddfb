"""The door of families that answer step by step, such as those that write a text token by token.

Between two steps the model server computes what is quicker, lets rows join, and drops those that nobody waits for
any more. `StepwiseFamily.predict` takes all steps at once, for training runs.
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Hashable, Sequence
from typing import Any

from lorabel.contracts import BatchAdapters, Contract
from lorabel.families.base import Family
from lorabel.families.cache import FeatureCache


class Steps(ABC):
    """Rows that are computed together, a step at a time. All methods run in the thread that owns the device."""

    @abstractmethod
    def has_room(self, prepared_input: Any) -> bool:
        """Whether a row with this input may begin now. True for any input if there are no rows."""

    @abstractmethod
    def begin(self, row: Hashable, prepared_input: Any, adapter: str | None) -> None:
        """Let a row join at the next step.

        Args:
            row: names the row here; not the name of another row that is in.
        """

    def set_background(self, row: Hashable) -> None:  # noqa: B027
        """Note that no person waits for a row that has just begun.

        Families whose steps are long for one row let it give way to others. By default nothing is noted.
        """

    @abstractmethod
    def step(self) -> Sequence[Hashable]:
        """Compute the next step of the rows, or of those that have joined.

        Returns:
            The rows that are done, for `finish`. They are not computed any further.

        Raises:
            Exception: all rows are as they were before the step, so it may be tried again with fewer rows.
        """

    @abstractmethod
    def finish(self, row: Hashable) -> Contract:
        """Return the output of a row, which leaves. It has what was computed so far."""

    @abstractmethod
    def leave(self, row: Hashable) -> None:
        """Let a row leave, without an output."""

    @property
    @abstractmethod
    def rows(self) -> Sequence[Hashable]:
        """The rows that are in, in the order in which they began."""


class StepwiseFamily(Family):
    """A family that answers step by step. It has no fitted heads, and answers nothing from the cache alone."""

    @abstractmethod
    def steps(self, bank: BatchAdapters, cache: FeatureCache) -> Steps:
        """Return steps without rows.

        Args:
            bank: applies the adapters to `module`.
            cache: see `Family.predict`.
        """

    def predict(
        self,
        prepared_inputs: Sequence[Any],
        adapters: Sequence[str | None],
        bank: BatchAdapters,
        cache: FeatureCache,
    ) -> Sequence[Contract]:
        """Compute all steps of the inputs; see `Family.predict`."""
        steps, waiting = self.steps(bank, cache), deque(range(len(prepared_inputs)))
        outputs: dict[Hashable, Contract] = {}
        while waiting or steps.rows:
            while waiting and steps.has_room(prepared_inputs[waiting[0]]):
                row = waiting.popleft()
                steps.begin(row, prepared_inputs[row], adapters[row])
            outputs |= {row: steps.finish(row) for row in steps.step()}
        return [outputs[row] for row in range(len(prepared_inputs))]
