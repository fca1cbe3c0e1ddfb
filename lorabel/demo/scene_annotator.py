"""`lorabel demo --headless`: a scripted annotator of scenes, who clicks, and submits boxes and masks.

The boxes of unseen scenes are compared with the drawn truth before the first annotation, and after rounds of
annotations, each as soon as the heads have learned from it. Clicks go to Label Studio's own address for smart
tools, and their masks are compared with the drawn things.
"""

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from lorabel.database.project_keys import LabelStudioId
from lorabel.database.store import Store
from lorabel.demo.predicting_and_training import Json, predict, submit, wait_for_heads
from lorabel.demo.scene_project import GRADE, PAIRS, SIZE, mask_of, right_label, right_regions, scene_of
from lorabel.demo.scenes import Scene, Thing
from lorabel.errors import LabelStudioError
from lorabel.evaluation.box_matching import match_boxes
from lorabel.evaluation.mask_metrics import iou
from lorabel.label_studio.client import LabelStudio
from lorabel.label_studio.records import AnnotatedTask
from lorabel.labeling.bit_masks import BitMask, decode, inner_point
from lorabel.labeling.image_regions import corners_of, picture_region

CHECKPOINTS = (0, 2, 5, 10, 19)
"""Numbers of annotations after which the boxes on unseen scenes are counted. One more would start a run."""
ANNOTATED, UNSEEN = CHECKPOINTS[-1], 40
SCENES = ANNOTATED + UNSEEN
CLICKS = 16

LEAST_GAIN = 0.3
"""Least rise of F1 of the boxes of `scene_project.GRADE`, of which the base model finds none."""
SPREAD = 0.04
"""Largest fall of F1 of the boxes whose labels words say.

In ten other draws of scenes it rose by 0.01 on average, with a standard deviation of 0.02 to 0.04.
"""
LEAST_IOU = 0.7
"""Least mean IoU of the masks of one click each."""


@dataclass(frozen=True)
class SceneRound:
    """How good the boxes on unseen scenes were after some annotations.

    Attributes:
        annotations: number of annotations that were submitted before.
        words_f1: of the boxes under labels that words say: label and place are right, with an IoU of at least 0.5.
        grade_f1: the same for the label that words cannot say.
        head_s: seconds from the last submit to heads that have learned from it; None before the first annotation.
    """

    annotations: int
    words_f1: float
    grade_f1: float
    head_s: float | None = None


@dataclass(frozen=True)
class Clicks:
    """What CLICKS clicks on unseen scenes gave.

    Attributes:
        mean_iou: of their masks with the things that were clicked.
        median_ms: of the time until a mask was there, through Label Studio.
    """

    mean_iou: float
    median_ms: float


def has_improved(rounds: Sequence[SceneRound], clicks: Clicks) -> bool:
    """Whether the unknown label was learned, the others are as good as before, and the masks are right."""
    first, last = rounds[0], rounds[-1]
    is_learned = last.grade_f1 >= first.grade_f1 + LEAST_GAIN and last.words_f1 >= first.words_f1 - SPREAD
    return is_learned and clicks.mean_iou >= LEAST_IOU


class SceneAnnotator:
    """The scripted annotator of one project."""

    def __init__(
        self, label_studio: LabelStudio, store: Store, label_studio_id: LabelStudioId, project_id: int
    ) -> None:
        self._label_studio, self._store = label_studio, store
        self._label_studio_id, self._project_id = label_studio_id, project_id

    def work(self, report: Callable[[SceneRound], None]) -> tuple[list[SceneRound], Clicks]:
        """Click, then annotate in rounds. `report` is called after each round.

        Raises:
            LabelStudioError: the project has other tasks, a click was not answered, or no heads were fitted.
        """
        tasks = list(self._label_studio.tasks(self._label_studio_id))
        if len(tasks) != SCENES:
            raise LabelStudioError(f"project {self._label_studio_id} has {len(tasks)} tasks, expected {SCENES}")
        unseen = tasks[ANNOTATED:]
        ious, times_ms = zip(*self._click(unseen), strict=True)
        rounds = [self._count(CHECKPOINTS[0], unseen, None)]
        report(rounds[0])
        for before, after in pairwise(CHECKPOINTS):
            for task in tasks[before:after]:
                submit(self._label_studio, task.task_id, right_regions(scene_of(task.data, SCENES)))
            submitted_at = time.monotonic()
            wait_for_heads(self._store, self._project_id, after)
            rounds.append(self._count(after, unseen, time.monotonic() - submitted_at))
            report(rounds[-1])
        return rounds, Clicks(statistics.mean(ious), statistics.median(times_ms))

    def _count(self, annotations: int, tasks: Sequence[AnnotatedTask], head_s: float | None) -> SceneRound:
        predicted = self._boxes(tasks)
        return SceneRound(annotations, f1(predicted, PAIRS.values()), f1(predicted, [GRADE]), head_s)

    def _boxes(self, tasks: Sequence[AnnotatedTask]) -> list[tuple[Scene, list[Json]]]:
        """Each scene with the regions that are predicted for it."""
        predictions = predict(self._label_studio, self._label_studio_id, [task.task_id for task in tasks])
        return [
            (scene_of(task.data, SCENES), predictions.get(task.task_id, {}).get("result", [])) for task in tasks
        ]

    def _click(self, tasks: Sequence[AnnotatedTask]) -> Iterator[tuple[float, float]]:
        """Click on CLICKS things. Yields the IoU of each mask, and the milliseconds until it was there."""
        (backend,) = self._label_studio.backends(self._label_studio_id)
        things = [
            (task, thing)
            for task in tasks
            for thing in scene_of(task.data, SCENES).things
            if (thing.colour, thing.shape) in PAIRS and not thing.has_hole
        ]
        for task, thing in things[:CLICKS]:
            mask = mask_of(thing)
            began = time.monotonic()
            answer = self._label_studio.call(
                "POST",
                f"/api/ml/{backend.id}/interactive-annotating",
                json={"task": task.task_id, "context": {"result": [_point(mask, thing)]}},
            )
            passed_ms = 1000 * (time.monotonic() - began)
            result = answer.get("data", {}).get("result", [])
            if not result:
                raise LabelStudioError(f"a click in task {task.task_id} gave no mask: {answer!r}")
            yield iou(mask, decode(result[0]["value"]["rle"], *SIZE)), passed_ms


def f1(predicted: Sequence[tuple[Scene, Sequence[Json]]], labels: Iterable[str]) -> float:
    """Two times the right boxes, over all predicted and all true ones; 0 if there is no box at all.

    Args:
        labels: of which boxes are counted.
    """
    right = drawn = true = 0
    for name in labels:
        for scene, regions in predicted:
            boxes = [corners_of(region) for region in regions if _label(region) == name]
            truth = [thing.corners for thing in scene.things if right_label(thing) == name]
            right, drawn, true = right + len(match_boxes(truth, boxes)), drawn + len(boxes), true + len(truth)
    return 2 * right / (drawn + true) if drawn + true else 0.0


def _label(region: Json) -> str | None:
    names = region["value"].get("rectanglelabels") or [None]
    return None if names[0] is None else str(names[0])


def _point(mask: BitMask, thing: Thing) -> Json:
    """The region that the editor sends for a click with the smart point."""
    x, y = inner_point(mask)
    value = {"x": 100 * x, "y": 100 * y, "width": 0.4, "keypointlabels": [right_label(thing)]}
    return {**picture_region("click", "image", "keypointlabels", SIZE, value), "is_positive": True}
