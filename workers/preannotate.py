"""Many tasks predicted and written back to Label Studio, a page at a time by task id.

A page can be done again and again: Label Studio is asked which of its tasks have a prediction of the version,
and those are left out. So nothing is written twice, whether a worker was killed, an answer was lost or a part
of the page had to wait; the cursor, written after each page, only saves the asking. (Label Studio itself allows
several predictions of a version: an annotator who opens a task between the reading and the writing of its page
makes a second, equal one.)
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from time import monotonic, sleep
from typing import Any, Self

import httpx

from lorabel.database import bulk_runs, leases, projects
from lorabel.database.tables import BulkRun, Project, RunState
from lorabel.errors import (
    LabelStudioError,
    LabelStudioRefusedError,
    LorabelError,
    ModelServerBusyError,
    ModelServerError,
    RunLostError,
)
from lorabel.inference import prediction, unreadable_tasks
from lorabel.inference.messages import Priority
from lorabel.inference.prediction import ProjectModel, TaskPrediction
from lorabel.inference.requests import PredictionCaller, Unreadable
from lorabel.label_studio.access import api_access
from lorabel.label_studio.client import AnnotatedTask, LabelStudio, NewPrediction
from lorabel.search import embeddings
from lorabel.search.embeddings import Resolve
from workers import services
from workers.heartbeat import heartbeat
from workers.services import Services

log = logging.getLogger(__name__)

LABEL_STUDIO_TIMEOUT_S = 60.0
PAGE_TIMEOUT_S = 300.0
EMBEDDINGS_TIMEOUT_S = 10.0
TURN_S = 20.0
MOST_TRIES = 8
LONGEST_REST_S = 30.0
MOST_FAILURES_NAMED = 100
HOPELESS = (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN, httpx.codes.NOT_FOUND)


def run(run_id: int) -> None:
    """The RQ job."""
    do(run_id, _do_pages)


def do(run_id: int, work: Callable[["BulkRunContext"], None]) -> None:
    """Claim a bulk run and do it. Whatever goes wrong ends up in the run's row, never in the queue."""
    here = services.current()
    claimed = leases.claim(here.store, BulkRun, run_id)
    if claimed is None:
        log.info("bulk run %d is not waiting, or another one of its project is on", run_id)
        return
    try:
        with heartbeat(here, claimed):
            _work(here, claimed, work)
    except RunLostError as error:
        log.info("bulk %s", error)
    except Exception as error:
        log.exception("bulk run %d failed", run_id)
        _fail(here, claimed, str(error) if isinstance(error, LorabelError) else f"{type(error).__name__}: {error}")
    with here.store.read() as session:
        waiting = bulk_runs.all_queued(session)
    for following in waiting:
        here.jobs.preannotate(following)


def _fail(here: Services, claimed: BulkRun, reason: str) -> None:
    try:
        with here.store.write() as session:
            leases.finish(session, claimed, RunState.FAILED, error=reason)
    except RunLostError as error:
        log.info("its reason is not kept: %s", error)


@dataclass(frozen=True)
class Progress:
    """How far a run is; the columns of its row."""

    cursor: int
    total: int | None
    done: int
    skipped: int
    failed: int
    failures: list[dict[str, Any]]

    @classmethod
    def of(cls, row: BulkRun) -> Self:
        return cls(row.cursor, row.total, row.done, row.skipped, row.failed, row.failures)


@dataclass(frozen=True)
class Page:
    """`missing` were asked for by id and are not there. `total` counts from this page on."""

    tasks: list[AnnotatedTask]
    missing: list[int]
    last_id: int
    total: int


@dataclass
class Outcome:
    """What became of a page so far, over all tries."""

    written: set[int] = field(default_factory=set)
    unread: dict[int, Unreadable | None] = field(default_factory=dict)


@dataclass
class Pace:
    """Not more requests to Label Studio than it is meant to get; `spent_s` are the seconds that they took."""

    per_second: float
    spent_s: float = 0.0
    next_at: float = 0.0

    @contextmanager
    def request(self) -> Iterator[None]:
        sleep(max(0.0, self.next_at - monotonic()))
        started = monotonic()
        self.next_at = started + 1 / self.per_second
        try:
            yield
        finally:
            self.spent_s += monotonic() - started


@dataclass(frozen=True)
class BulkRunContext:
    """What every page of a run needs."""

    here: Services
    claimed: BulkRun
    project: Project
    model: ProjectModel
    client: LabelStudio
    pace: Pace


def _work(here: Services, claimed: BulkRun, work: Callable[["BulkRunContext"], None]) -> None:
    with here.store.read() as session:
        project = projects.get(session, claimed.project_id)
        model = ProjectModel.of(session, project, here.settings, claimed.version_number)
    access = api_access(project, here.settings)
    if access is None:
        raise LorabelError(f"there is no token for project {project.id}'s Label Studio any more")
    if not model.bound.bindings:
        raise LorabelError(f"no control tag of project {project.id}'s label config is served: nothing to predict")
    if claimed.version_number is None:
        leases.report(here.store, claimed, version_number=project.live_number)
    pace = Pace(here.settings.label_studio_requests_per_second, claimed.label_studio_s)
    with LabelStudio(access.url, access.api_key, LABEL_STUDIO_TIMEOUT_S) as client:
        work(BulkRunContext(here, claimed, project, model, client, pace))


def _do_pages(context: BulkRunContext) -> None:
    """Until the last page, or until another run has waited for a while."""
    here, claimed = context.here, context.claimed
    started, progress = monotonic(), Progress.of(claimed)
    while True:
        after = _do_page(context, progress)
        if after is None:
            break
        progress = after
        leases.report(here.store, claimed, kills=0, label_studio_s=context.pace.spent_s, **asdict(progress))
        if monotonic() - started > TURN_S and _somebody_waits(here):
            bulk_runs.release(here.store, claimed)
            return
    with here.store.write() as session:
        leases.finish(session, claimed, RunState.FINISHED, label_studio_s=context.pace.spent_s)
    log.info(
        "bulk run %d of project %d: %d done with %s, %d skipped, %d failed",
        claimed.id,
        claimed.project_id,
        progress.done,
        context.model.version,
        progress.skipped,
        progress.failed,
    )


def _somebody_waits(here: Services) -> bool:
    with here.store.read() as session:
        return bulk_runs.is_another_queued(session)


def _do_page(context: BulkRunContext, progress: Progress) -> Progress | None:
    """The next page, tried again until Label Studio has all of it; None if there is none.

    Raises:
        LabelStudioError, ModelServerError: again and again, without anything getting through.
    """
    outcome, tries = Outcome(), 0
    while True:
        before = len(outcome.written)
        leases.report(context.here.store, context.claimed)
        try:
            page = _read(context, progress.cursor)
            if page is None:
                return None
            if _predict(context, page, outcome):
                _note_unread(context, outcome)
                return _after(progress, page, outcome)
            problem: Exception = ModelServerError("the model server did not get to every task of a page")
            rest_s = 1.0
        except ModelServerBusyError as error:
            # Annotators go first, for as long as it takes.
            log.info("bulk run %d waits: %s", context.claimed.id, error)
            sleep(error.retry_after_s)
            continue
        except (LabelStudioError, ModelServerError) as error:
            if isinstance(error, LabelStudioRefusedError) and error.status_code in HOPELESS:
                raise
            problem, rest_s = error, min(2.0**tries, LONGEST_REST_S)
        tries = 0 if len(outcome.written) > before else tries + 1
        if tries == MOST_TRIES:
            raise problem
        log.warning("bulk run %d tries a page again in %.0f s: %s", context.claimed.id, rest_s, problem)
        sleep(rest_s)


def _read(context: BulkRunContext, cursor: int) -> Page | None:
    claimed, size = context.claimed, context.here.settings.bulk_page
    if claimed.task_ids is None:
        with context.pace.request():
            found = context.client.tasks_after(
                claimed.project_id, cursor, only_unlabeled=claimed.only_unlabeled, page_size=size
            )
        return Page(found.tasks, [], found.tasks[-1].task_id, found.total) if found.tasks else None
    left = [task_id for task_id in claimed.task_ids if task_id > cursor]
    if not left:
        return None
    with context.pace.request():
        tasks = context.client.tasks_of(claimed.project_id, left[:size])
    missing = set(left[:size]) - {task.task_id for task in tasks}
    return Page(tasks, sorted(missing), left[:size][-1], len(left))


def _predict(context: BulkRunContext, page: Page, outcome: Outcome) -> bool:
    """Predict what Label Studio lacks and write it back. Returns whether the page is done."""
    here, model = context.here, context.model
    lacking = [task for task in page.tasks if model.version not in task.versions]
    if not lacking:
        return True
    resolve = here.authorizations.resolver(context.project, here.settings)
    caller = PredictionCaller(here.model_client, model.project_id, Priority.BULK, monotonic() + PAGE_TIMEOUT_S)
    found = prediction.predict(model, [task.data for task in lacking], resolve, caller)
    by_task = {task.task_id: one for task, one in zip(lacking, found, strict=True)}
    final = {task_id: one for task_id, one in by_task.items() if one.is_final}
    if final:
        _write(context, final)
    outcome.written |= final.keys()
    outcome.unread |= {task_id: one.unread for task_id, one in by_task.items()}
    _keep_embeddings(context, lacking, resolve)
    return not any(one.unread is not None and one.unread.is_late for one in found)


def _keep_embeddings(context: BulkRunContext, tasks: list[AnnotatedTask], resolve: Resolve) -> None:
    here, model = context.here, context.model
    caller = PredictionCaller(
        here.model_client, model.project_id, Priority.BULK, monotonic() + EMBEDDINGS_TIMEOUT_S
    )
    data = {task.task_id: task.data for task in tasks}
    embeddings.keep_recalled(here.store, caller, model.bound, data, resolve)


def _note_unread(context: BulkRunContext, outcome: Outcome) -> None:
    store, project_id = context.here.store, context.project.id
    with store.read() as session:
        before = unreadable_tasks.known(session, project_id)
    unreadable_tasks.write(store, project_id, outcome.unread, before)


def _write(context: BulkRunContext, final: dict[int, TaskPrediction]) -> None:
    version = context.model.version
    rows = [NewPrediction(task_id, one.regions, one.score, version) for task_id, one in final.items()]
    # A run that was cancelled or given to another worker must not write any more.
    leases.report(context.here.store, context.claimed)
    with context.pace.request():
        context.client.add_predictions(context.claimed.project_id, rows)


def _after(progress: Progress, page: Page, outcome: Outcome) -> Progress:
    """Tasks that were never to be read count as failed, though Label Studio got an empty prediction of them."""
    unread = {task_id: why for task_id, why in outcome.unread.items() if why is not None}
    failures = [failure(task_id, why.reason) for task_id, why in sorted(unread.items())]
    failures += [failure(task_id, "the project has no such task") for task_id in page.missing]
    done = len(outcome.written - unread.keys())
    counted = progress.done + progress.skipped + progress.failed
    return replace(
        progress,
        cursor=page.last_id,
        total=counted + page.total,
        done=progress.done + done,
        skipped=progress.skipped + len(page.tasks) + len(page.missing) - done - len(failures),
        failed=progress.failed + len(failures),
        failures=[*progress.failures, *failures][:MOST_FAILURES_NAMED],
    )


def failure(task_id: int, reason: str) -> dict[str, Any]:
    return {"task_id": task_id, "reason": reason}
