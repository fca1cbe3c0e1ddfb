"""Average precision of boxes or masks, as COCO counts it, and precision and recall of those that are shown.

Average precision is that of pycocotools (https://cocodataset.org/#detection-eval) for things of all sizes:
precision, made monotone, at 101 values of recall. Tests compare the two, for boxes and for masks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic

import numpy as np
from numpy.typing import NDArray

from lorabel.evaluation.box_matching import Overlaps, Place

# IoU from which a box or a mask counts as found, for the mean over stricter and stricter ones.
IOUS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
RECALLS = np.linspace(0, 1, 101)
# Most findings of a label in a picture that are looked at, the likeliest first.
MOST_FINDINGS = 100


@dataclass(frozen=True)
class Finding(Generic[Place]):
    """A predicted box or mask.

    Args:
        label: index of its label.
        is_shown: whether it is likely enough to be shown.
    """

    place: Place
    label: int
    probability: float
    is_shown: bool


@dataclass(frozen=True)
class Picture(Generic[Place]):
    """What is true of a picture, and what was found.

    Args:
        truth: the right places with the indices of their labels.
        unlabelled: places of things whose label is not known.
        incomplete: labels of which there are more, at places that are not known.
    """

    truth: Sequence[tuple[Place, int]]
    findings: Sequence[Finding[Place]]
    unlabelled: Sequence[Place] = ()
    incomplete: Sequence[int] = ()

    def are_unclear(self, findings: Sequence[Finding[Place]], overlaps: Overlaps[Place]) -> NDArray[np.bool_]:
        """(findings,): whether nobody knows if a finding that meets no true place is wrong."""
        of_label = np.array([finding.label in self.incomplete for finding in findings], bool)
        if not self.unlabelled:
            return of_label
        at_places = overlaps([finding.place for finding in findings], self.unlabelled)
        are_unclear: NDArray[np.bool_] = of_label | (at_places >= IOUS[0]).any(axis=1)
        return are_unclear


@dataclass(frozen=True)
class _Matches:
    """The findings of one label in all pictures, the likeliest first.

    Args:
        probabilities: (findings,).
        is_right: (IoUs, findings): whether it is the first that meets a true place of its own.
        counts: (IoUs, findings): whether it is known to be right or wrong.
        true_places: how many there are.
    """

    probabilities: NDArray[np.float64]
    is_right: NDArray[np.bool_]
    counts: NDArray[np.bool_]
    true_places: int


def average_precisions(
    pictures: Sequence[Picture[Place]], labels: Sequence[str], overlaps: Overlaps[Place]
) -> dict[str, Any]:
    """Mean average precision at IoU 0.5 (`map_50`) and over 0.5 to 0.95 (`map`), and figures per label.

    Both means are over the labels that some picture has. If no picture has any, both are 1 if nothing is shown,
    else 0. `precision` and `recall` are at IoU 0.5, of the findings that are shown. A finding of which
    nobody knows whether it is right does not count.
    """
    per_class, means, means_50 = {}, [], []
    for index, label in enumerate(labels):
        matches = _match_label(pictures, index, overlaps, is_shown_only=False)
        precisions = [
            _average_precision(is_right[counts], matches.true_places)
            for is_right, counts in zip(matches.is_right, matches.counts, strict=True)
        ]
        if matches.true_places:
            means_50.append(precisions[0])
            means.append(float(np.mean(precisions)))
        shown = _match_label(pictures, index, overlaps, is_shown_only=True)
        per_class[label] = {
            **_precision_and_recall(int(shown.is_right[0].sum()), int(shown.counts[0].sum()), shown.true_places),
            "ap_50": precisions[0] if matches.true_places else None,
            "support": matches.true_places,
        }
    is_quiet = all(_is_quiet(picture, overlaps) for picture in pictures)
    return {
        "tasks": len(pictures),
        "map_50": float(np.mean(means_50)) if means_50 else float(is_quiet),
        "map": float(np.mean(means)) if means else float(is_quiet),
        "per_class": per_class,
        "labels": list(labels),
    }


def right_findings(picture: Picture[Place], overlaps: Overlaps[Place], iou: float = 0.5) -> list[bool | None]:
    """Return for each finding whether it is right, that is, the likeliest on a true place of its own.

    None if nobody knows.
    """
    findings = picture.findings
    is_right = [None if is_unclear else False for is_unclear in picture.are_unclear(findings, overlaps)]
    for label in {finding.label for finding in findings}:
        indices = [index for index, finding in enumerate(findings) if finding.label == label]
        indices.sort(key=lambda index: -findings[index].probability)
        truth = [place for place, true_label in picture.truth if true_label == label]
        (hits,) = _assign(overlaps([findings[index].place for index in indices], truth), (iou,))
        for index, is_hit in zip(indices, hits, strict=True):
            if is_hit:
                is_right[index] = True
    return is_right


def _is_quiet(picture: Picture[Place], overlaps: Overlaps[Place]) -> bool:
    """Whether nothing is shown of which it is known that it should not be, in a picture without true places."""
    shown = [finding for finding in picture.findings if finding.is_shown]
    return bool(picture.are_unclear(shown, overlaps).all())


def _precision_and_recall(right: int, predicted: int, true_places: int) -> dict[str, float]:
    return {
        "precision": right / predicted if predicted else float(not true_places),
        "recall": right / true_places if true_places else 1.0,
    }


def _match_label(
    pictures: Sequence[Picture[Place]], label: int, overlaps: Overlaps[Place], *, is_shown_only: bool
) -> _Matches:
    probabilities: list[float] = []
    is_right: list[NDArray[np.bool_]] = [np.zeros((len(IOUS), 0), bool)]
    counts: list[NDArray[np.bool_]] = [np.zeros((len(IOUS), 0), bool)]
    true_places = 0
    for picture in pictures:
        truth = [place for place, true_label in picture.truth if true_label == label]
        of_label = [finding for finding in picture.findings if finding.label == label]
        findings = [finding for finding in of_label if finding.is_shown or not is_shown_only]
        findings = sorted(findings, key=lambda finding: -finding.probability)[:MOST_FINDINGS]
        probabilities += [finding.probability for finding in findings]
        is_right.append(_assign(overlaps([finding.place for finding in findings], truth), IOUS))
        counts.append(is_right[-1] | ~picture.are_unclear(findings, overlaps))
        true_places += len(truth)
    order = np.argsort(-np.array(probabilities), kind="stable")
    return _Matches(
        np.array(probabilities)[order],
        np.concatenate(is_right, axis=1)[:, order],
        np.concatenate(counts, axis=1)[:, order],
        true_places,
    )


def _assign(overlaps: NDArray[np.float64], ious: Sequence[float]) -> NDArray[np.bool_]:
    """(IoUs, findings): the likeliest finding goes first, and takes the free true place that it overlaps most."""
    findings, true_places = overlaps.shape
    is_right = np.zeros((len(ious), findings), bool)
    for row, iou in enumerate(ious):
        is_free = np.ones(true_places, bool)
        for column in range(findings):
            candidates = np.where(is_free, overlaps[column], -1.0)
            # Of equally good true places pycocotools takes the last.
            best = true_places - 1 - int(np.argmax(candidates[::-1])) if true_places else -1
            if best >= 0 and candidates[best] >= min(iou, 1 - 1e-10):
                is_right[row, column] = True
                is_free[best] = False
    return is_right


def _average_precision(is_right: NDArray[np.bool_], true_places: int) -> float:
    """Area under precision over recall, at 101 values of recall."""
    if not true_places or not len(is_right):
        return 0.0
    hits = np.cumsum(is_right)
    recall = hits / true_places
    precision = np.maximum.accumulate((hits / np.arange(1, len(hits) + 1))[::-1])[::-1]
    positions = np.searchsorted(recall, RECALLS, side="left")
    values = np.append(precision, 0.0)[np.minimum(positions, len(precision))]
    return float(values.mean())
