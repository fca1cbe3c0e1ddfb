"""`lorabel demo --headless`: a scripted annotator, who works in rounds through Label Studio's own API.

In each round the annotator takes tasks from the labeling stream (so that Label Studio itself asks our backend),
reads the pre-annotation, submits the right answer, and then waits until the training that the answers caused has
ended.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lorabel.database import training_runs
from lorabel.database.project_keys import LabelStudioId
from lorabel.database.store import Store
from lorabel.database.tables import Project, RunState, TrainingRun
from lorabel.demo.project import LABEL_CONFIG, picture_of, right_answer
from lorabel.errors import LabelStudioError
from lorabel.label_studio.client import LabelStudio
from lorabel.problems.binding import bind

ROUNDS = 5
TASKS_PER_ROUND = 20
UNSEEN_TASKS = 24
PICTURES = ROUNDS * TASKS_PER_ROUND + UNSEEN_TASKS

TRAINING_TIMEOUT_S = 180.0
POLL_S = 0.2

MOST_AT_FIRST = 0.6
"""Highest share of right pre-annotations in the first round, which is zero-shot.

Chance is one in three; with 44 tasks its standard deviation is 0.07.
"""
LEAST_AT_LAST = 0.9
"""Lowest share of right pre-annotations in the last round."""

Json = dict[str, Any]


@dataclass(frozen=True)
class Round:
    """How good the live version was in one round, and how long the training after it took.

    Attributes:
        annotations: number of annotations that were submitted before the round.
        version: the version that was live in the round.
        right: number of right pre-annotations among `total` tasks that nobody had annotated before.
        wait_s: seconds from the round's last answer to the end of the training; None in the last round.
    """

    annotations: int
    version: str
    right: int
    total: int
    wait_s: float | None

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
        rounds: list[Round] = []
        for number in range(ROUNDS):
            finished = self._work_round(number * TASKS_PER_ROUND, unseen, is_last=number == ROUNDS - 1)
            report(finished)
            rounds.append(finished)
        return rounds

    def _work_round(self, annotations: int, unseen: frozenset[int], *, is_last: bool) -> Round:
        version, last_run = self._live_version(), self._last_run_id()
        right = self._count_right_unseen(unseen, version)
        right += sum(self._annotate_next() for _ in range(TASKS_PER_ROUND))
        submitted_at = time.monotonic()
        wait_s = None
        if not is_last:
            self._wait_for_training(last_run)
            wait_s = time.monotonic() - submitted_at
        return Round(annotations, version, right, len(unseen) + TASKS_PER_ROUND, wait_s)

    def _annotate_next(self) -> bool:
        """Take the next task and submit the right answer.

        Returns:
            Whether the pre-annotation was right.
        """
        task = self._label_studio.call("GET", f"/api/projects/{self._label_studio_id}/next", timeout_s=110.0)
        answer = right_answer(picture_of(task["data"], PICTURES))
        newest_prediction = max(task["predictions"], key=lambda prediction: prediction["id"], default=None)
        region = {
            "from_name": self._binding.from_name,
            "to_name": self._binding.to_name,
            "type": "choices",
            "value": {"choices": [answer]},
        }
        self._label_studio.call(
            "POST", f"/api/tasks/{task['id']}/annotations/", json={"result": [region], "lead_time": 1.0}
        )
        return _choices(newest_prediction) == [answer]

    def _unseen_task_ids(self) -> frozenset[int]:
        """The project's last tasks, which the labeling stream does not reach."""
        tasks = list(self._label_studio.tasks(self._label_studio_id))
        if len(tasks) != PICTURES:
            raise LabelStudioError(f"project {self._label_studio_id} has {len(tasks)} tasks, expected {PICTURES}")
        return frozenset(task.task_id for task in tasks[-UNSEEN_TASKS:])

    def _count_right_unseen(self, task_ids: frozenset[int], version: str) -> int:
        """Let Label Studio predict the tasks, by the Data Manager's action "Retrieve Predictions".

        Returns:
            The number of tasks whose prediction by this version is right.
        """
        self._label_studio.call(
            "POST",
            "/api/dm/actions",
            params={"id": "retrieve_tasks_predictions", "project": self._label_studio_id},
            json={"selectedItems": {"all": False, "included": sorted(task_ids)}},
            timeout_s=110.0,
        )
        predictions = self._label_studio.call(
            "GET", "/api/predictions/", params={"project": self._label_studio_id}
        )
        prediction_by_task = {
            prediction["task"]: prediction
            for prediction in predictions
            if prediction["task"] in task_ids and prediction["model_version"] == version
        }
        tasks = self._label_studio.tasks(self._label_studio_id)
        return sum(
            _choices(prediction_by_task.get(task.task_id)) == [right_answer(picture_of(task.data, PICTURES))]
            for task in tasks
            if task.task_id in task_ids
        )

    def _wait_for_training(self, last_run: int) -> None:
        deadline = time.monotonic() + TRAINING_TIMEOUT_S
        while time.monotonic() < deadline:
            run = self._newest_run()
            if run is not None and run.id > last_run and run.state == RunState.FINISHED:
                return
            if run is not None and run.id > last_run and run.state == RunState.FAILED:
                raise LabelStudioError(f"training run {run.id} failed: {run.error}")
            time.sleep(POLL_S)
        raise LabelStudioError(
            f"no training of project {self._project_id} ended within {TRAINING_TIMEOUT_S:.0f} s after "
            f"{TASKS_PER_ROUND} annotations (last run: {_describe(self._newest_run())}); see `lorabel status`, "
            "and `lorabel doctor` for the webhook"
        )

    def _newest_run(self) -> TrainingRun | None:
        with self._store.read() as session:
            return next(iter(training_runs.list_of(session, self._project_id)), None)

    def _last_run_id(self) -> int:
        run = self._newest_run()
        return run.id if run else 0

    def _live_version(self) -> str:
        with self._store.read() as session:
            return session.get_one(Project, self._project_id).live_version


def _choices(prediction: Json | None) -> list[str]:
    return [choice for region in (prediction or {}).get("result", ()) for choice in region["value"]["choices"]]


def _describe(run: TrainingRun | None) -> str:
    return "none" if run is None else f"{run.id}, {run.state}, {run.decision or run.error or 'no decision'}"
