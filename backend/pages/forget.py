"""The page that deletes what is kept of a project, a task or an annotator: what would go, and the button."""

from collections.abc import Mapping
from dataclasses import dataclass

from backend import forgetting
from backend.forgetting import Plan
from backend.http_bodies import LARGEST_BIG_ID
from backend.services import Services
from lorabel.database import projects as project_rows
from lorabel.database.forgotten_events import Subject
from lorabel.database.tables import Project
from lorabel.errors import BadRequestError, LorabelError, NotFoundError

WHOLE = "project"
KINDS = {"task": "A task", "annotator": "What an annotator did", WHOLE: "The whole project"}
# A page waits so long for the plan; after that it comes as an event. The event waits, so that one process of the
# backend makes the plan: the next request may reach another.
PLAN_WAIT_S, EVENT_WAIT_S = 0.1, 20.0


@dataclass(frozen=True)
class Choice:
    """What is to be deleted. `kind`: `task`, `annotator` or `project`; empty before one was chosen. `id`: of the
    task or the annotator, as typed."""

    kind: str
    id: str
    is_retraining: bool

    @classmethod
    def of(cls, fields: Mapping[str, str]) -> "Choice":
        """Read the fields `kind`, `id` and `retrain` of a form."""
        kind = fields.get("kind", "")
        return cls(kind, fields.get("id", "").strip(), bool(fields.get("retrain")) and kind != WHOLE)

    @property
    def subject(self) -> Subject:
        """Whose rows these are. Raises BadRequestError if the kind is none, or the id no number."""
        if self.kind == WHOLE:
            return Subject()
        if self.kind not in KINDS:
            raise BadRequestError(f"kind={self.kind[:20]!r} is none of {', '.join(KINDS)}")
        is_number = self.id.isascii() and self.id.isdigit() and len(self.id) <= len(str(LARGEST_BIG_ID))
        if not is_number or not 1 <= int(self.id) <= LARGEST_BIG_ID:
            raise BadRequestError(
                f"{self.id[:20]!r} is no id of {'a task' if self.kind == 'task' else 'an annotator'}"
            )
        return Subject(task_id=int(self.id)) if self.kind == "task" else Subject(annotator_id=int(self.id))


@dataclass(frozen=True)
class ForgetPage:
    """What the page shows.

    Attributes:
        project: None if it was deleted.
        plan: what would be deleted; None before something was chosen, while it is found out, and of a project that
            was deleted.
        fault: why it cannot be found out.
    """

    project_id: int
    project: Project | None
    title: str | None
    choice: Choice
    plan: Plan | None
    fault: str = ""

    @property
    def name(self) -> str:
        """What is to be deleted, in words."""
        return (
            f"project {self.project_id}" if self.choice.kind == WHOLE else f"{self.choice.kind} {self.choice.id}"
        )

    @property
    def is_looking(self) -> bool:
        """Whether it is still found out what would be deleted."""
        return bool(self.choice.kind) and self.project is not None and self.plan is None and not self.fault

    @property
    def is_empty(self) -> bool:
        """Whether nothing of it is kept."""
        return self.project is None or (self.plan is not None and self.plan.is_empty)


def read_forget(services: Services, project_id: int, fields: Mapping[str, str], wait_s: float) -> ForgetPage:
    """Read what would be deleted.

    Args:
        fields: of the form, see `Choice`.
        wait_s: how long to wait for the plan: PLAN_WAIT_S for a page, EVENT_WAIT_S for the event that renews it.

    Raises:
        BadRequestError: the id is no number.
        NotFoundError: no such project, unless the page is about a whole one, which may be deleted by now.
    """
    choice, title = Choice.of(fields), services.vitals.title(project_id)
    try:
        with services.store.read() as session:
            project = project_rows.get(session, project_id)
    except NotFoundError:
        if choice.kind != WHOLE:
            raise
        return ForgetPage(project_id, None, title, choice, None)
    if not choice.kind:
        return ForgetPage(project_id, project, title, choice, None)
    subject = choice.subject
    try:
        plan = services.forget_plans.get(project_id, subject, is_retraining=choice.is_retraining, wait_s=wait_s)
    except LorabelError as error:
        return ForgetPage(project_id, project, title, choice, None, str(error))
    return ForgetPage(project_id, project, title, choice, plan)


def forget(services: Services, project_id: int, fields: Mapping[str, str]) -> Choice:
    """Queue the job that deletes it, and return what it was.

    Raises:
        BadRequestError: nothing was chosen, or the id is no number.
        NotFoundError: no such project.
        ConflictError: Redis cannot be reached.
    """
    choice = Choice.of(fields)
    if not choice.kind:
        raise BadRequestError("choose what is to be deleted first")
    with services.store.read() as session:
        project_rows.get(session, project_id)
    forgetting.queue(services.store, services.jobs, project_id, choice.subject, is_retraining=choice.is_retraining)
    return choice
