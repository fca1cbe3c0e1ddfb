"""What the demo's scripted annotators ask Label Studio for and wait for: predictions, heads, and training runs."""

import time
from collections.abc import Iterable
from typing import Any

from sqlalchemy import func, select

from lorabel.database import project_heads, training_runs
from lorabel.database.project_keys import LabelStudioId
from lorabel.database.store import Store
from lorabel.database.tables import Annotation, RunState, TrainingRun
from lorabel.errors import LabelStudioError
from lorabel.label_studio.client import LabelStudio

HEAD_TIMEOUT_S = 30.0
TRAINING_TIMEOUT_S = 180.0
POLL_S = 0.2
HEAD_POLL_S = 0.01

Json = dict[str, Any]


def predict(label_studio: LabelStudio, label_studio_id: LabelStudioId, task_ids: Iterable[int]) -> dict[int, Json]:
    """Let Label Studio predict tasks, by the Data Manager's action "Retrieve Predictions".

    Returns:
        The newest prediction of each task that has one.
    """
    included = sorted(task_ids)
    label_studio.call(
        "POST",
        "/api/dm/actions",
        params={"id": "retrieve_tasks_predictions", "project": label_studio_id},
        json={"selectedItems": {"all": False, "included": included}},
        timeout_s=110.0,
    )
    predictions = label_studio.call("GET", "/api/predictions/", params={"project": label_studio_id})
    return {
        prediction["task"]: prediction
        for prediction in sorted(predictions, key=lambda prediction: int(prediction["id"]))
        if prediction["task"] in included
    }


def submit(label_studio: LabelStudio, task_id: int, result: list[Json]) -> None:
    """Submit an annotation."""
    label_studio.call("POST", f"/api/tasks/{task_id}/annotations/", json={"result": result, "lead_time": 1.0})


def wait_for_heads(store: Store, project_id: int, annotations: int) -> None:
    """Wait until heads are fitted on so many annotations.

    Raises:
        LabelStudioError: they were not within HEAD_TIMEOUT_S.
    """
    of_project = select(func.count(Annotation.id)).where(Annotation.project_id == project_id)
    deadline = time.monotonic() + HEAD_TIMEOUT_S
    while time.monotonic() < deadline:
        with store.read() as session:
            stored = session.scalar(of_project) or 0
            if stored >= annotations and project_id not in project_heads.due(session):
                return
        time.sleep(HEAD_POLL_S)
    raise LabelStudioError(
        f"no heads were fitted on {annotations} annotations of project {project_id} within "
        f"{HEAD_TIMEOUT_S:.0f} s; see `lorabel doctor` for the webhook, and logs/worker-light.log"
    )


def last_run_id(store: Store, project_id: int) -> int:
    """The id of the project's newest run, 0 if there is none."""
    run = _newest_run(store, project_id)
    return run.id if run else 0


def wait_for_training(store: Store, project_id: int, last_run: int, annotations: int) -> str | None:
    """Wait until a run after `last_run` has ended.

    Args:
        annotations: the number of new annotations that start a run.

    Returns:
        What the run decided.

    Raises:
        LabelStudioError: the run failed, or none ended within TRAINING_TIMEOUT_S.
    """
    deadline = time.monotonic() + TRAINING_TIMEOUT_S
    while time.monotonic() < deadline:
        run = _newest_run(store, project_id)
        if run is not None and run.id > last_run and run.state == RunState.FINISHED:
            return run.decision
        if run is not None and run.id > last_run and run.state == RunState.FAILED:
            raise LabelStudioError(f"training run {run.id} failed: {run.error}")
        time.sleep(POLL_S)
    newest = _describe(_newest_run(store, project_id))
    raise LabelStudioError(
        f"no training of project {project_id} ended within {TRAINING_TIMEOUT_S:.0f} s after "
        f"{annotations} annotations (last run: {newest}); see `lorabel status`, "
        "and `lorabel doctor` for the webhook"
    )


def _newest_run(store: Store, project_id: int) -> TrainingRun | None:
    with store.read() as session:
        return next(iter(training_runs.list_of(session, project_id)), None)


def _describe(run: TrainingRun | None) -> str:
    return "none" if run is None else f"{run.id}, {run.state}, {run.decision or run.error or 'no decision'}"
