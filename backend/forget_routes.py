"""REST route that deletes what is kept of a project, a task or an annotator."""

from typing import Annotated, Any

from flask import Blueprint
from pydantic import Field, model_validator

from backend import forgetting, http_bodies
from backend.http_bodies import LARGEST_BIG_ID, Body, read_body
from backend.project_routes import PROJECT, as_json
from backend.rest_responses import Record
from backend.services import services
from lorabel.database.forgotten_events import Subject

blueprint = Blueprint("forgetting", __name__, url_prefix="/api/v1")
Id = Annotated[int, Field(ge=1, le=LARGEST_BIG_ID, strict=True)]


class Forget(Body):
    """Body of `POST .../forget`. `task_id` or `annotator_id` in Label Studio; without them, the whole project.
    `retrain`: also remove the adapters that have learned from it, and train without it. `confirm`: delete; without
    it, the answer only says what would be deleted."""

    task_id: Id | None = None
    annotator_id: Id | None = None
    retrain: Annotated[bool, Field(strict=True)] = False
    confirm: Annotated[bool, Field(strict=True)] = False

    @model_validator(mode="after")
    def check_subject(self) -> "Forget":
        """Raise ValueError if the fields do not go together."""
        if self.task_id is not None and self.annotator_id is not None:
            raise ValueError("give task_id or annotator_id, not both")
        if self.retrain and self.task_id is None and self.annotator_id is None:
            raise ValueError("retrain goes with task_id or annotator_id: of a whole project no version is left")
        return self


class ForgetRecord(Record):
    """What is deleted. `rows`: by table how many rows are deleted or changed; logs, jobs, heads and folders go as
    well. `learned`: the versions whose adapters have learned from it. `left`: what has to be deleted elsewhere.
    `is_queued`: whether the light worker deletes it now; else nothing is deleted."""

    rows: dict[str, int]
    learned: list[str]
    active_runs: int
    left: list[str]
    is_queued: bool


@blueprint.post(f"{PROJECT}/forget")
def forget(project_id: int) -> dict[str, Any]:
    """Delete what is kept of a project, a task or an annotator, as `lorabel forget` does, by a job; or say what
    would be deleted."""
    body = http_bodies.parse(Forget, read_body() or b"{}")
    subject = Subject(body.task_id, body.annotator_id)
    store, settings = services().store, services().settings
    plan = forgetting.plan(settings, store, project_id, subject, is_retraining=body.retrain)
    if body.confirm:
        forgetting.queue(store, services().jobs, project_id, subject, is_retraining=body.retrain)
    record = ForgetRecord(
        rows=plan.rows,
        learned=[str(version) for version in plan.forgotten.learned],
        active_runs=plan.forgotten.active_runs,
        left=plan.left,
        is_queued=body.confirm,
    )
    return as_json(record)
