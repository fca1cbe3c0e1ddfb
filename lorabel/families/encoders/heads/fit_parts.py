"""Fits the head of questions about videos on their frames, their sound and what is said in them, side by side.

Which of these parts count, is chosen by cross-validated loss. The frames alone answer unless others are clearly
better, so that what is heard costs nothing where the pictures decide.

A part that a video lacks is left out: its place has the mean of the videos that have the part, so that it speaks
for no label. `LinearHead` computes this since the first feature of a part is 1 where the part is there.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from lorabel.contracts import Modality
from lorabel.families.encoders.heads.fusion_choice import FEWEST_TASKS, FOLDS, HeadFit, TaskContents, fold_of_each
from lorabel.families.encoders.heads.head_features import CONCAT, slot_rows, slots_of
from lorabel.families.encoders.heads.linear_head import Array, LinearHead
from lorabel.families.encoders.heads.parts import of_width
from lorabel.families.encoders.heads.ridge import Float64, Scaling

FRAMES = (Modality.VIDEO.value,)
# By so many standard errors of the difference other parts must be better than the frames alone.
STANDARD_ERRORS = 1.0
# Most videos on which subsets of the parts are compared. With 1000 a fit would take 11 s of CPU.
MOST_COMPARED = 200

Slots = tuple[str, ...]


@dataclass(frozen=True)
class _Side:
    """How the parts of videos become the features of a fit.

    Args:
        scalings: of each slot, learned from the videos that have the part.
    """

    slots: Slots
    scalings: tuple[Scaling, ...]

    @classmethod
    def of(cls, slots: Slots, rows: Float64) -> "_Side":
        """Learn the centres and scales from annotated videos.

        Args:
            rows: (slots, videos, features).
        """
        return cls(slots, tuple(Scaling.of(part[part[:, 0] > 0]) for part in rows))

    def mix(self, rows: Float64) -> Array:
        """Return the features of the fit, (videos, slots * features); zeros for a part that is missing."""
        blocks = [
            scaling.apply(part) * (part[:, :1] > 0) for scaling, part in zip(self.scalings, rows, strict=True)
        ]
        return np.asarray(np.concatenate(blocks, axis=1), np.float32)

    def unmix(self, head: LinearHead) -> LinearHead:
        """Return the head for the parts as they are that computes what this one does for features of the fit."""
        blocks = []
        for scaling, weights in zip(self.scalings, np.split(head.weights, len(self.slots)), strict=True):
            unscaled, shift = scaling.undo(weights.astype(np.float64), np.zeros(weights.shape[1]))
            unscaled[0] += shift  # added only where the part is there
            blocks.append(unscaled)
        weights = np.concatenate(blocks).astype(np.float32)
        return replace(head, weights=weights, feature_map=CONCAT, slots=self.slots)


def fit_parts(tasks: Sequence[TaskContents], head_fit: HeadFit) -> LinearHead | None:
    """Fit a head on the parts that have the lowest cross-validated loss; on the frames unless others are better.

    Args:
        tasks: videos with the rows of their parts, in an order that does not depend on when they were annotated.
    """
    width = max(task.features.shape[1] for task in tasks)
    tasks = [replace(task, features=of_width(task.features, width)) for task in tasks]
    slots = _choose(tasks, head_fit)
    rows = _rows(slots, tasks)
    side = _Side.of(slots, rows)
    head = head_fit.fit(side.mix(rows), np.arange(len(tasks)))
    return None if head is None else side.unmix(head)


def _choose(tasks: Sequence[TaskContents], head_fit: HeadFit) -> Slots:
    """The parts that count. One that fewer than FEWEST_TASKS videos have says too little of what it is worth."""
    compared = [tasks[index] for index in _compared(tasks)]
    counts = Counter(str(modality) for task in compared for modality in task.modalities)
    every = [slot for slot in slots_of(task.modalities for task in compared) if counts[slot] >= FEWEST_TASKS]
    others = [slots for size in range(1, 1 + len(every)) for slots in combinations(every, size) if slots != FRAMES]
    if len(tasks) < FEWEST_TASKS or not others:
        return FRAMES
    of_frames = _cross_validate(FRAMES, tasks, head_fit)
    losses = {slots: _cross_validate(slots, tasks, head_fit) for slots in others}
    comparable = [slots for slots in others if np.isfinite(losses[slots]).all()]
    if not comparable:
        return FRAMES
    best = min(comparable, key=lambda slots: losses[slots].mean())
    gains = of_frames - losses[best]
    least = STANDARD_ERRORS * gains.std() / np.sqrt(len(gains))
    return best if gains.mean() > least else FRAMES


def _compared(tasks: Sequence[TaskContents]) -> NDArray[np.intp]:
    """The indices of the videos on which subsets of the parts are compared."""
    return np.unique(np.linspace(0, len(tasks) - 1, min(len(tasks), MOST_COMPARED)).astype(np.intp))


def _cross_validate(slots: Slots, tasks: Sequence[TaskContents], head_fit: HeadFit) -> Float64:
    """(compared videos,): the loss of each video with a head that was fitted without its fold.

    It is infinite where no video outside of the fold has a part: what it is worth cannot be known.
    """
    chosen = _compared(tasks)
    folds: NDArray[np.intp] = fold_of_each([tasks[index].group for index in chosen])
    rows, losses = _rows(slots, tasks), np.zeros(len(tasks))
    for fold in range(FOLDS):
        test, train = chosen[folds == fold], chosen[folds != fold]
        if not (rows[:, train, 0] > 0).any(1).all():
            losses[test] = np.inf
        if not len(test) or np.isinf(losses[test]).any():
            continue
        side = _Side.of(slots, rows[:, train])
        head = head_fit.fit(side.mix(rows[:, train]), train)
        losses[test] = head_fit.losses(head, side.mix(rows[:, test]), test)
    return losses[chosen]


def _rows(slots: Slots, tasks: Sequence[TaskContents]) -> Float64:
    """(slots, videos, features); zeros for a part that is missing."""
    rows = [np.stack(slot_rows(slots, task.modalities, task.features)) for task in tasks]
    return np.stack(rows, axis=1).astype(np.float64)
