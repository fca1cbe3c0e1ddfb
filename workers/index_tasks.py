"""Embeds all tasks of a project as a bulk run, so that search finds every one of them.

Vectors are stored page by page. So a run that was killed, or let another run go first, has only the rest computed.
"""

import logging
from dataclasses import asdict

from lorabel.database import bulk_runs, leases
from lorabel.database.tables import RunState
from lorabel.label_studio.records import TaskPage
from lorabel.labeling.redacted_bodies import masked_reason
from lorabel.search.indexing import Indexing
from workers.bulk_runs import (
    ConnectedContext,
    IncompletePageError,
    Progress,
    carry_out_connected,
    failure,
    is_transient,
    pause_s,
)
from workers.retries import try_again

log = logging.getLogger(__name__)


def index_tasks(run_id: int) -> None:
    """The RQ job: embed the tasks of the run's project, and remove the vectors of those that were deleted."""
    carry_out_connected(run_id, _index_pages)


def _index_pages(context: ConnectedContext) -> None:
    """Embed page after page. After TURN_S, give the turn to another run if one waits."""
    services, run = context.services, context.run
    indexing = Indexing(
        services.store,
        context.client,
        context.project.label_studio_id,
        context.caller(),
        context.model.bound,
        context.resolver(),
        services.settings.bulk_page,
    )
    progress = Progress.of(run)
    while (after_page := _index_page(context, indexing, progress)) is not None:
        progress = after_page
        leases.report(services.store, run, kills=0, label_studio_s=context.pace.spent_s, **asdict(progress))
        if context.is_turn_over():
            bulk_runs.release(services.store, run)
            return
    with services.store.write() as session:
        leases.finish(
            session, run, RunState.FINISHED, label_studio_s=context.pace.spent_s, total=progress.total or 0
        )
    log.info("project %d: %d tasks were embedded, %d cannot be", run.project_id, progress.done, progress.failed)


def _index_page(context: ConnectedContext, indexing: Indexing, progress: Progress) -> Progress | None:
    """Embed the next page, and try again until all of it has vectors or cannot be read.

    Returns:
        The progress after the page, or None if there was no further page.

    Raises:
        LabelStudioError, ModelServerError: refused for good, or several attempts in a row embedded nothing.
    """
    embedded_before = indexing.embedded

    def attempt() -> TaskPage:
        leases.report(context.services.store, context.run)
        with context.pace.request():
            page = indexing.read_page(progress.cursor)
        indexing.caller, indexing.resolve = context.caller(), context.resolver()
        if not indexing.keep_page(page.tasks, progress.cursor):
            raise IncompletePageError("the model server did not get to every task of a page")
        return page

    name = f"a page of bulk run {context.run.id}"
    page = try_again(attempt, name, is_transient, pause_s, count_done=lambda: indexing.embedded)
    if not page.tasks:
        return None
    task_ids = [task.task_id for task in page.tasks]
    # They quote the task's data.
    failures = [
        failure(task.task_id, masked_reason(context.services.redactor, task.data, reason))
        for task in page.tasks
        if (reason := indexing.unreadable.get(task.task_id)) is not None
    ]
    embedded = indexing.embedded - embedded_before
    return progress.after_page(task_ids[-1], page.total, len(task_ids), embedded, failures)
