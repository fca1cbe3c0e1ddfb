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
from lorabel.errors import BadRequestError, NotFoundError

WHOLE = "project"
KINDS = {"task": "A task", "annotator": "What an annotator did", WHOLE: "The whole project"}


@dataclass(frozen=True)
class ForgetPage:
    """What the page shows.

    Attributes:
        project: None if it was deleted.
        kind: `task`, `annotator` or `project`; empty before one was chosen.
        id: of the task or the annotator, as typed.
        plan: what would be deleted; None before something was chosen, and of a project that was deleted.
    """

    project_id: int
    project: Project | None
    title: str | None
    kind: str
    id: str
    is_retraining: bool
    plan: Plan | None

    @property
    def name(self) -> str:
        """What is to be deleted, in words."""
        return f"project {self.project_id}" if self.kind == WHOLE else f"{self.kind} {self.id}"

    @property
    def is_empty(self) -> bool:
        """Whether nothing of it is kept."""
        return self.project is None or (self.plan is not None and not self.plan.rows)


def read_forget(services: Services, project_id: int, fields: Mapping[str, str]) -> ForgetPage:
    """Read what would be deleted.

    Args:
        fields: `kind`, `id` and `retrain` of the form.

    Raises:
        BadRequestError: the id is no number.
        NotFoundError: no such project, unless the page is about a whole one, which may be deleted by now.
    """
    kind, id_ = fields.get("kind", ""), fields.get("id", "").strip()
    is_retraining = bool(fields.get("retrain")) and kind != WHOLE
    title = services.vitals.title(project_id)
    try:
        with services.store.read() as session:
            project = project_rows.get(session, project_id)
    except NotFoundError:
        if kind != WHOLE:
            raise
        return ForgetPage(project_id, None, title, kind, id_, is_retraining, None)
    if not kind:
        return ForgetPage(project_id, project, title, "", "", is_retraining, None)
    plan = forgetting.plan(services, project_id, _subject(kind, id_), is_retraining=is_retraining)
    return ForgetPage(project_id, project, title, kind, id_, is_retraining, plan)


def forget(services: Services, project_id: int, fields: Mapping[str, str]) -> ForgetPage:
    """Queue the job that deletes it, and return what it was. Raises as `read_forget`, and ConflictError."""
    page = read_forget(services, project_id, fields)
    if page.plan is None:
        raise BadRequestError("choose what is to be deleted first")
    forgetting.queue(services, project_id, page.plan.subject, is_retraining=page.is_retraining)
    return page


def _subject(kind: str, id_: str) -> Subject:
    if kind == WHOLE:
        return Subject()
    if kind not in KINDS:
        raise BadRequestError(f"kind={kind[:20]!r} is none of {', '.join(KINDS)}")
    is_number = id_.isascii() and id_.isdigit() and len(id_) <= len(str(LARGEST_BIG_ID))
    if not is_number or not 1 <= int(id_) <= LARGEST_BIG_ID:
        raise BadRequestError(f"{id_[:20]!r} is no id of {'a task' if kind == 'task' else 'an annotator'}")
    return Subject(task_id=int(id_)) if kind == "task" else Subject(annotator_id=int(id_))
