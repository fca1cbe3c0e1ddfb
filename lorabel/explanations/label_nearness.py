"""Explains predicted boxes and masks by how near each label of the control tag is to what is there."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from lorabel.contracts import Input
from lorabel.errors import UnreadableError
from lorabel.inference import requests
from lorabel.inference.question import Question, read_answer, shown_output
from lorabel.inference.requests import PredictionCaller, Unreadable
from lorabel.problems._near_labels import FoundRegion, NearLabels
from lorabel.space_contracts import Corners

# More labels of a region are not told: the nearest say what it was nearly taken for.
MOST_NEAR = 20


@dataclass(frozen=True)
class NearLabel:
    """How near a label is to what is in a region.

    Attributes:
        label: as results name it.
        nearness: the logarithm of the odds that the label names what is there, before calibration.
        of_text: the same, by the text of the label alone; None if the text is what answers.
        is_taught: whether a fitted head has learned anything of the label; None if the text is what answers.
    """

    label: str
    nearness: float
    of_text: float | None = None
    is_taught: bool | None = None


@dataclass(frozen=True)
class ExplainedRegion:
    """Why a predicted region has its label.

    Attributes:
        corners: (left, top, right, bottom) of the upright box around it, as fractions of the picture.
        label: that it has.
        score: as people see it: calibrated.
        labels: the MOST_NEAR nearest labels, the nearest first, and its own.
    """

    corners: Corners
    label: str
    score: float
    labels: tuple[NearLabel, ...]

    @property
    def margin(self) -> float | None:
        """How much nearer its own label is than the nearest other one; None if there is no other."""
        own = next(near.nearness for near in self.labels if near.label == self.label)
        others = [near.nearness for near in self.labels if near.label != self.label]
        return own - max(others) if others else None


def explain_regions(
    caller: PredictionCaller, question: Question, asked: Input, late_reason: str
) -> list[ExplainedRegion]:
    """Ask for the regions of a task's prediction again, with the nearness of all labels.

    Args:
        question: of a binding that is `NearLabels`.
        asked: what `NearLabels.explained` returned for it.
        late_reason: see `requests.send`.

    Raises:
        ModelServerError: see `requests.send`.
        UnreadableError: there is no answer, or one that makes no sense.
    """
    (answer,) = requests.send(caller, [replace(question, contract=asked).row()], late_reason)
    regions = read_answer(question, answer, _regions)
    if isinstance(regions, Unreadable):
        raise UnreadableError(regions.reason, is_permanent=regions.is_permanent)
    return regions


def _regions(question: Question, output: Any) -> list[ExplainedRegion]:
    """The regions of an output. Raises ValueError or LookupError if they do not fit the labels."""
    binding = question.binding
    assert isinstance(binding, NearLabels)
    labels = binding.region_labels
    return [_region(labels, found) for found in binding.found_regions(shown_output(question, output))]


def _region(labels: Sequence[str], found: FoundRegion) -> ExplainedRegion:
    nearness = found.nearness
    if nearness is None:
        raise ValueError("it does not say how near the labels are")
    columns = [nearness.answering, *([nearness.of_texts, nearness.is_taught] if nearness.of_texts else [])]
    near = [NearLabel(*values) for values in zip(labels, *columns, strict=True)]
    in_order = sorted(near, key=lambda each: -each.nearness)
    own = near[found.label]
    told = in_order[:MOST_NEAR]
    return ExplainedRegion(
        found.corners, own.label, found.probability, tuple(told if own in told else [*told, own])
    )
