"""What problems share whose regions are explained by how near each label is to what is there: boxes and masks."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lorabel.contracts import Input
from lorabel.mask_contracts import LabelledMasksInput
from lorabel.space_contracts import BoxesInput, Corners, Nearness


@dataclass(frozen=True)
class FoundRegion:
    """A region that is shown, and why it has its label.

    Attributes:
        corners: of the upright box around it.
        label: index of its label.
        probability: that it is right, in [0, 1].
        nearness: of all labels; None if the answer does not say it.
    """

    corners: Corners
    label: int
    probability: float
    nearness: Nearness | None


class NearLabels(ABC):
    """Base class, beside `Problem`, of problems whose outputs can say how near each label is to each region."""

    @property
    @abstractmethod
    def region_labels(self) -> tuple[str, ...]:
        """The labels that regions may have, as results name them."""

    @abstractmethod
    def found_regions(self, output: Any) -> Sequence[FoundRegion]:
        """Return the regions that `Problem.prediction` shows of an output, in its order."""

    def explained(self, question: Input) -> Input | None:
        """Return the question whose answer also says the nearness; None if this question cannot ask for it.

        Args:
            question: of the binding, about a task. Models that write are asked otherwise.
        """
        if type(question) not in (BoxesInput, LabelledMasksInput):
            return None
        return question.model_copy(update={"is_explained": True})
