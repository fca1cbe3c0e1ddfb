"""What forgetting would delete, and the job that does it, for the page and for REST."""

from dataclasses import dataclass

from lorabel.database import forget_requests
from lorabel.database.forgetting import Forgotten
from lorabel.database.forgotten_events import Subject
from lorabel.database.jobs import Jobs
from lorabel.database.store import Store
from lorabel.errors import ConflictError
from lorabel.settings import Settings


@dataclass(frozen=True)
class Plan:
    """What would be deleted.

    Attributes:
        left: what would stay elsewhere, a sentence each, with what to do.
        advice: on the privacy budget; empty if there is nothing to say.
    """

    subject: Subject
    is_retraining: bool
    forgotten: Forgotten
    left: list[str]
    advice: str

    @property
    def rows(self) -> dict[str, int]:
        """Table -> how many of its rows would be deleted or changed."""
        return {table: count for table, count in sorted(self.forgotten.rows.items()) if count}

    @property
    def is_empty(self) -> bool:
        """Whether nothing of it is kept: only runs would be ended, which may be reading it."""
        ended = {"training_run": self.forgotten.active_runs} if self.forgotten.active_runs else {}
        return (not self.subject.is_project and self.rows == ended) or not self.rows


def plan(settings: Settings, store: Store, project_id: int, subject: Subject, *, is_retraining: bool) -> Plan:
    """What would be deleted now. Of a large project it takes seconds.

    Raises:
        NotFoundError: no such project.
    """
    # Imported here as only this needs them: they belong to the command.
    from lorabel.commands import forgotten_places

    forgotten = forgotten_places.plan(settings, store, project_id, subject, is_retraining=is_retraining)
    is_ending = subject.is_project or is_retraining
    left = forgotten_places.artifacts_elsewhere(settings, project_id) if is_ending else []
    advice = forgotten_places.budget_advice(subject, forgotten)
    return Plan(subject, is_retraining, forgotten, left, advice)


def queue(store: Store, jobs: Jobs, project_id: int, subject: Subject, *, is_retraining: bool) -> None:
    """Have the light worker delete it.

    Raises:
        ConflictError: Redis cannot be reached.
        SecretKeyError: there is no key to seal the job with.
    """
    sealed = forget_requests.ask(store, project_id, subject, is_retraining=is_retraining)
    if not jobs.forget(project_id, sealed):
        raise ConflictError(
            "nothing was deleted, since Redis cannot be reached: try again, or run `lorabel forget` on the machine"
        )
