"""A bulk run's turn on a worker: claimed, kept alive by a heartbeat, ended, and the next run queued.

What a kind of run does is in a module of its own: `workers/preannotate.py`, `workers/order.py`,
`workers/label_errors.py` and `workers/index_tasks.py`.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from time import monotonic, sleep
from typing import Any, Self, TypeVar

import httpx

from lorabel.database import bulk_runs, leases, projects
from lorabel.database.tables import BulkRun, Project, RunState
from lorabel.errors import (
    LabelStudioError,
    LabelStudioRefusedError,
    LorabelError,
    ModelServerError,
    RunLostError,
    short_reason,
)
from lorabel.inference.messages import Priority
from lorabel.inference.prediction import ProjectModel
from lorabel.inference.requests import PredictionCaller
from lorabel.label_studio.access import api_access
from lorabel.label_studio.client import LabelStudio
from lorabel.label_studio.project_identity import check_identity
from lorabel.search.embeddings import Resolve
from workers.heartbeat import heartbeat
from workers.retries import try_again
from workers.services import Services

log = logging.getLogger(__name__)

T = TypeVar("T")

LABEL_STUDIO_TIMEOUT_S = 60.0
PAGE_TIMEOUT_S = 300.0
TURN_S = 20.0
MOST_FAILURES_NAMED = 100
LONGEST_PAUSE_S = 30.0
INCOMPLETE_PAGE_PAUSE_S = 1.0
# Refusals that stay the same however often we ask.
FINAL_REFUSALS = (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN, httpx.codes.NOT_FOUND)


class IncompletePageError(ModelServerError):
    """The model server did not get to every task of a page."""


@dataclass(frozen=True)
class BulkRunContext:
    """What a run of any kind needs.

    Args:
        model: of the version that was live at the start of the run.
        started_at: when this turn began, in seconds of `time.monotonic()`.
    """

    services: Services
    run: BulkRun
    project: Project
    model: ProjectModel
    started_at: float

    def newest_model(self) -> ProjectModel:
        """The run's version with the heads that answer now. A run takes hours, and old heads are removed."""
        with self.services.store.read() as session:
            project = projects.get(session, self.project.id)
            return ProjectModel.of(session, project, self.services.settings, self.run.version_number)

    def caller(self, timeout_s: float = PAGE_TIMEOUT_S) -> PredictionCaller:
        """The caller of requests to the model server that end after `timeout_s` from now."""
        client, project_id = self.services.model_client, self.model.project_id
        return PredictionCaller(client, project_id, Priority.BULK, monotonic() + timeout_s)

    def resolver(self) -> Resolve:
        """What completes media addresses. Its token may expire, so use it for one request only."""
        return self.services.authorizations.resolver(self.project, self.services.settings)

    def is_turn_over(self) -> bool:
        """Whether the run has had its time and another run waits."""
        if monotonic() - self.started_at <= TURN_S:
            return False
        with self.services.store.read() as session:
            return bulk_runs.is_another_queued(session)


@dataclass
class Pace:
    """Limits how many requests per second Label Studio gets. `spent_s`: seconds that the requests took so far."""

    per_second: float
    spent_s: float = 0.0
    next_at: float = 0.0

    @contextmanager
    def request(self) -> Iterator[None]:
        """Wait until the next request is allowed, then time the block, which makes the request."""
        sleep(max(0.0, self.next_at - monotonic()))
        started = monotonic()
        self.next_at = started + 1 / self.per_second
        try:
            yield
        finally:
            self.spent_s += monotonic() - started


@dataclass(frozen=True)
class ConnectedContext(BulkRunContext):
    """What a run needs that reads and writes tasks in Label Studio."""

    client: LabelStudio
    pace: Pace


@dataclass(frozen=True)
class Progress:
    """How far a run is: the columns of its row.

    Args:
        cursor: id of the last task that is done; 0 before the first task.
        total: tasks of the run, or None before the first page is read.
        skipped: tasks for which all was done already.
        failures: what `failure` returns, for the first MOST_FAILURES_NAMED failed tasks.
    """

    cursor: int
    total: int | None
    done: int
    skipped: int
    failed: int
    failures: list[dict[str, Any]]

    @classmethod
    def of(cls, row: BulkRun) -> Self:
        return cls(row.cursor, row.total, row.done, row.skipped, row.failed, row.failures)

    def after_page(
        self, last_id: int, left: int, tasks: int, done: int, failures: Sequence[dict[str, Any]]
    ) -> Self:
        """The progress after a page; what was neither done nor failed was skipped.

        Args:
            last_id: the largest task id of the page.
            left: number of tasks from this page to the end of the run.
            tasks: number of tasks of the page.
            done: number of those of which something was written.
            failures: of the others.
        """
        counted = self.done + self.skipped + self.failed
        return replace(
            self,
            cursor=last_id,
            total=counted + left,
            done=self.done + done,
            skipped=self.skipped + tasks - done - len(failures),
            failed=self.failed + len(failures),
            failures=[*self.failures, *failures][:MOST_FAILURES_NAMED],
        )


def carry_out(run_id: int, work: Callable[[BulkRunContext], None]) -> None:
    """Claim a bulk run and do its work. Any error is kept in the run's row and never reaches the queue."""
    services = Services.current()
    run = leases.claim(services.store, BulkRun, run_id)
    if run is None:
        log.info("bulk run %d is not waiting, or another one of its project is on", run_id)
        return
    try:
        with heartbeat(services, run):
            work(_make_context(services, run))
    except RunLostError as error:
        log.info("bulk %s", error)
    except Exception as error:
        log.exception("bulk run %d failed", run_id)
        _fail(services, run, services.redactor.masked_message(short_reason(error)))
    with services.store.read() as session:
        queued_runs = bulk_runs.list_queued(session)
    for queued_run in queued_runs:
        services.jobs.carry_out(queued_run)


def carry_out_connected(run_id: int, work: Callable[[ConnectedContext], None]) -> None:
    """As `carry_out`, for work that needs Label Studio's API."""

    def connect_and_work(context: BulkRunContext) -> None:
        settings, project = context.services.settings, context.project
        access = api_access(project, settings)
        if access is None:
            raise LorabelError(f"there is no token for project {project.id}'s Label Studio any more")
        pace = Pace(settings.label_studio_requests_per_second, context.run.label_studio_s)
        with LabelStudio(access.url, access.api_key, LABEL_STUDIO_TIMEOUT_S) as client:
            connected = ConnectedContext(**vars(context), client=client, pace=pace)
            name = f"the first request of bulk run {context.run.id}"
            try_again(lambda: _check_identity(connected), name, is_transient, pause_s)
            work(connected)

    carry_out(run_id, connect_and_work)


def is_transient(error: Exception) -> bool:
    """Whether what Label Studio or the model server could not do may succeed later."""
    if isinstance(error, LabelStudioRefusedError) and error.status_code in FINAL_REFUSALS:
        return False
    return isinstance(error, LabelStudioError | ModelServerError)


def pause_s(error: Exception, failures: int) -> float:
    """Seconds before the next attempt. They double with each failure, but after an incomplete page they stay few:
    the model server works, but slowly."""
    if isinstance(error, IncompletePageError):
        return INCOMPLETE_PAGE_PAUSE_S
    return min(2.0**failures, LONGEST_PAUSE_S)


def try_model_server(context: BulkRunContext, attempt: Callable[[], T]) -> T:
    """Ask the model server until it answers. Before each attempt, check that the run is still this worker's."""

    def report_and_attempt() -> T:
        leases.report(context.services.store, context.run)
        return attempt()

    return try_again(
        report_and_attempt, f"bulk run {context.run.id}", lambda error: isinstance(error, ModelServerError)
    )


def failure(task_id: int, reason: str) -> dict[str, Any]:
    """An entry of the run's `failures` column."""
    return {"task_id": task_id, "reason": reason}


def _check_identity(context: ConnectedContext) -> None:
    with context.pace.request():
        check_identity(context.client, context.project)


def _make_context(services: Services, run: BulkRun) -> BulkRunContext:
    with services.store.read() as session:
        project = projects.get(session, run.project_id)
        model = ProjectModel.of(session, project, services.settings, run.version_number)
    if project.is_deleted:
        raise LorabelError(f"project {project.id} was deleted in Label Studio")
    if not model.bound.bindings:
        raise LorabelError(f"no control tag of project {project.id}'s label config is served: nothing to predict")
    if run.version_number is None:
        leases.report(services.store, run, version_number=project.live_number)
        run.version_number = project.live_number
    return BulkRunContext(services, run, project, model, monotonic())


def _fail(services: Services, run: BulkRun, reason: str) -> None:
    try:
        with services.store.write() as session:
            leases.finish(session, run, RunState.FAILED, error=reason)
    except RunLostError as error:
        log.info("its reason is not kept: %s", error)
