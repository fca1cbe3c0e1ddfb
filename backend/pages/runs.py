"""The pages of runs: what goes on and what has ended, of all projects or of one, and a single run with its log."""

from collections.abc import Sequence
from dataclasses import dataclass

from backend.pages.charts import LineChart
from backend.pages.paging import Page, read_page
from backend.pages.run_rows import RunRow, of_bulk, of_training
from backend.pages.version import loss_charts
from backend.services import Services
from lorabel.database import bulk_runs, reasons, training_runs
from lorabel.database import projects as project_rows
from lorabel.database.reasons import Reason
from lorabel.database.tables import Project

MOST_REASONS = 200


@dataclass(frozen=True)
class RunsPage:
    """What the page shows. `project` is None for the runs of all projects."""

    project: Project | None
    titles: dict[int, str]
    active: Sequence[RunRow]
    training: Page[RunRow]
    bulk: Page[RunRow]


@dataclass(frozen=True)
class RunPage:
    """A run. `reasons`: its log, of which `hidden` more lines are not shown."""

    project: Project
    title: str | None
    run: RunRow
    reason: str
    attempt: int
    charts: Sequence[tuple[str, LineChart]]
    reasons: Sequence[Reason]
    hidden: int


def active_of(services: Services, project_id: int | None) -> list[RunRow]:
    """The runs that wait or go on, of a project or of all (None)."""
    return [run for run in services.active_runs.get() if project_id in (None, run.project_id)]


def read_runs(services: Services, project_id: int | None) -> RunsPage:
    """Read what the page of runs shows. The URL's fields `training` and `bulk` have the pages of the two lists.

    Raises:
        NotFoundError: no such project.
        BadRequestError: a page is no number.
    """
    with services.store.read() as session:
        project = None if project_id is None else project_rows.get(session, project_id)
        training = read_page(
            "training",
            lambda offset, limit: [
                of_training(run) for run in training_runs.page_of(session, project_id, offset, limit)
            ],
        )
        bulk = read_page(
            "bulk",
            lambda offset, limit: [of_bulk(run) for run in bulk_runs.page_of(session, project_id, offset, limit)],
        )
    return RunsPage(project, titles(services), active_of(services, project_id), training, bulk)


def read_training_run(services: Services, project_id: int, run_id: int) -> RunPage:
    """Read what the page of a training run shows. Raises NotFoundError if the project has no such run."""
    with services.store.read() as session:
        project = project_rows.get(session, project_id)
        run = training_runs.get(session, project_id, run_id)
    log = list(reasons.of_training(run))
    charts = loss_charts(run.losses)
    return _page(services, project, of_training(run), run.reason, run.attempt, charts, log)


def read_bulk_run(services: Services, project_id: int, run_id: int) -> RunPage:
    """Read what the page of a bulk run shows. Raises NotFoundError if the project has no such run."""
    with services.store.read() as session:
        project = project_rows.get(session, project_id)
        run = bulk_runs.get(session, project_id, run_id)
    return _page(services, project, of_bulk(run), run.reason, run.attempt, [], list(reasons.of_bulk_run(run)))


def titles(services: Services) -> dict[int, str]:
    """Project id -> title, as far as they are known."""
    taken = services.vitals.titles.get()
    return {} if taken is None else taken.value


def _page(
    services: Services,
    project: Project,
    run: RunRow,
    reason: str,
    attempt: int,
    charts: Sequence[tuple[str, LineChart]],
    log: Sequence[Reason],
) -> RunPage:
    title = services.vitals.title(project.id)
    hidden = max(0, len(log) - MOST_REASONS)
    return RunPage(project, title, run, reason, attempt, charts, log[:MOST_REASONS], hidden)
