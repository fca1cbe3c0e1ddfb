"""`lorabel demo --headless`: a scripted annotator, who works in rounds through Label Studio's own API.

In each round the annotator takes tasks from the labeling stream (so that Label Studio itself asks our backend) and
submits the right answers. Then it waits until the predictions are by heads that have learned from these, and until
the training that they caused has ended.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from lorabel.database.project_keys import LabelStudioId
from lorabel.database.store import Store
from lorabel.database.tables import Project
from lorabel.demo.predicting_and_training import (
    Json,
    last_run_id,
    predict,
    submit,
    wait_for_heads,
    wait_for_training,
)
from lorabel.demo.project import LABEL_CONFIG, picture_of, right_answer
from lorabel.errors import LabelStudioError
from lorabel.label_studio.client import LabelStudio
from lorabel.problems.binding import bind

CHECKPOINTS = (0, 5, 10, 20, 40, 80)
"""Numbers of annotations after which the pre-annotations of the unseen tasks are counted."""
TRAIN_AFTER = 20
"""Number of new annotations that start a training run (TRAIN_AFTER_ANNOTATIONS)."""
UNSEEN_TASKS = 44
PICTURES = CHECKPOINTS[-1] + UNSEEN_TASKS

MOST_AT_FIRST = 0.6
"""Highest share of right pre-annotations before the first annotation, which is zero-shot.

Chance is one in three; with 44 tasks its standard deviation is 0.07.
"""
LEAST_AT_LAST = 0.9
"""Lowest share of right pre-annotations after the last annotation."""


@dataclass(frozen=True)
class Round:
    """How good the pre-annotations were after some annotations, and how long they were waited for.

    Attributes:
        annotations: number of annotations that were submitted before.
        version: what predicted: the live version, with its heads.
        right: number of right pre-annotations among `total` tasks that nobody has annotated.
        head_s: seconds from the last submit to heads that have learned from it; None before the first annotation.
        wait_s: seconds from the last submit to the end of the training that it caused; None if it caused none.
        decision: what that training gave, in words; None if there was none.
    """

    annotations: int
    version: str
    right: int
    total: int
    head_s: float | None
    wait_s: float | None
    decision: str | None = None

    @property
    def share(self) -> float:
        """Share of right pre-annotations, 0 to 1."""
        return self.right / self.total


def has_improved(rounds: Sequence[Round]) -> bool:
    """Whether the share of right pre-annotations rose from about chance to nearly 1 with a new version."""
    first, last = rounds[0], rounds[-1]
    return first.share <= MOST_AT_FIRST and last.share >= LEAST_AT_LAST and first.version != last.version


class Annotator:
    """The scripted annotator of one project."""

    def __init__(
        self, label_studio: LabelStudio, store: Store, label_studio_id: LabelStudioId, project_id: int
    ) -> None:
        self._label_studio = label_studio
        self._store = store
        self._label_studio_id, self._project_id = label_studio_id, project_id
        self._binding = bind(LABEL_CONFIG).bindings[0]

    def work(self, report: Callable[[Round], None]) -> list[Round]:
        """Work all rounds. `report` is called after each round."""
        unseen = self._unseen_task_ids()
        rounds = [self._count(CHECKPOINTS[0], unseen, None, None)]
        report(rounds[0])
        for before, after in pairwise(CHECKPOINTS):
            last_run = last_run_id(self._store, self._project_id)
            for _ in range(after - before):
                self._annotate_next()
            submitted_at = time.monotonic()
            wait_for_heads(self._store, self._project_id, after)
            head_s = time.monotonic() - submitted_at
            is_trained = after // TRAIN_AFTER > before // TRAIN_AFTER
            decision = None
            if is_trained:
                decision = wait_for_training(self._store, self._project_id, last_run, TRAIN_AFTER)
            wait_s = time.monotonic() - submitted_at if is_trained else None
            rounds.append(replace(self._count(after, unseen, head_s, wait_s), decision=decision))
            report(rounds[-1])
        return rounds

    def _count(
        self, annotations: int, unseen: frozenset[int], head_s: float | None, wait_s: float | None
    ) -> Round:
        with self._store.read() as session:
            version = session.get_one(Project, self._project_id).served_version
        right = self._count_right_unseen(unseen)
        return Round(annotations, version, right, len(unseen), head_s, wait_s)

    def _annotate_next(self) -> None:
        """Take the next task and submit the right answer."""
        task = self._label_studio.call("GET", f"/api/projects/{self._label_studio_id}/next", timeout_s=110.0)
        answer = right_answer(picture_of(task["data"], PICTURES))
        region = {
            "from_name": self._binding.from_name,
            "to_name": self._binding.to_name,
            "type": "choices",
            "value": {"choices": [answer]},
        }
        submit(self._label_studio, task["id"], [region])

    def _unseen_task_ids(self) -> frozenset[int]:
        """The project's last tasks, which the labeling stream does not reach."""
        tasks = list(self._label_studio.tasks(self._label_studio_id))
        if len(tasks) != PICTURES:
            raise LabelStudioError(f"project {self._label_studio_id} has {len(tasks)} tasks, expected {PICTURES}")
        return frozenset(task.task_id for task in tasks[-UNSEEN_TASKS:])

    def _count_right_unseen(self, task_ids: frozenset[int]) -> int:
        """The number of tasks whose newest prediction is right, after Label Studio has predicted them."""
        prediction_by_task = predict(self._label_studio, self._label_studio_id, task_ids)
        tasks = self._label_studio.tasks(self._label_studio_id)
        return sum(
            _choices(prediction_by_task.get(task.task_id)) == [right_answer(picture_of(task.data, PICTURES))]
            for task in tasks
            if task.task_id in task_ids
        )


def _choices(prediction: Json | None) -> list[str]:
    return [choice for region in (prediction or {}).get("result", ()) for choice in region["value"]["choices"]]
