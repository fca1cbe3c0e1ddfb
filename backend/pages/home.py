"""The page of all projects: what is live, how good it is, what goes on, and what is wrong."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from backend.pages.charts import Spark, spark
from backend.pages.formats import percent
from backend.pages.paging import Page, read_page
from backend.pages.run_rows import RunRow
from backend.pages.snapshots import Taken
from backend.pages.vitals import Parts
from backend.services import Services
from lorabel.database import projects, training_runs, version_scores, versions
from lorabel.database.tables import Annotation, Event, EventState, ModelVersion, Project, now
from lorabel.database.version_scores import Score

if TYPE_CHECKING:
    from lorabel.commands.checks import Check

SPARK_VERSIONS = 12
DAY = timedelta(days=1)
FIRST_WAIT_S = 1.0


@dataclass(frozen=True)
class ProjectRow:
    """A project in the list.

    Attributes:
        score: of the newest version that was measured, for its first control tag.
        line: the same figure of its newest versions.
        today: annotations that arrived within 24 hours.
        new: annotations that no accepted version has learned from.
    """

    project: Project
    title: str | None
    score: Score | None
    line: Spark | None
    today: int
    new: int
    active_runs: int


@dataclass(frozen=True)
class Home:
    """What the page shows. `faults` and `parts` are None while they are not known yet."""

    projects: Page[ProjectRow]
    active_runs: Sequence[RunRow]
    today: int
    pending_events: int
    faults: "Taken[list[Check]] | None"
    is_examining: bool
    parts: Taken[Parts] | None


def read_home(services: Services) -> Home:
    """Read what the page shows.

    Raises:
        BadRequestError: the URL's `page` is no number.
    """
    titles = services.vitals.titles.get(FIRST_WAIT_S)
    active_runs = services.active_runs.get()
    with services.store.read() as session:
        page = read_page("page", lambda offset, limit: projects.page_of(session, offset, limit))
        rows = _rows(session, page.rows, {} if titles is None else titles.value, active_runs)
        is_pending = select(func.count(Event.id)).where(Event.state == EventState.PENDING)
        pending_events = session.scalar(is_pending) or 0
        today = _received(session, None)
    checks = services.vitals.checks.get()
    return Home(
        Page(rows, page.number, page.has_more, page.name),
        active_runs,
        sum(today.values()),
        pending_events,
        checks,
        services.vitals.checks.is_loading,
        services.vitals.parts.get(FIRST_WAIT_S),
    )


def _rows(
    session: Session, page: Sequence[Project], titles: dict[int, str], active_runs: Sequence[RunRow]
) -> list[ProjectRow]:
    ids = [project.id for project in page]
    today, new = _received(session, ids), training_runs.count_new(session, ids)
    newest = versions.newest_of_each(session, ids, SPARK_VERSIONS)
    active = Counter(run.project_id for run in active_runs)
    rows = []
    for project in page:
        score, line = _figure(newest[project.id])
        rows.append(
            ProjectRow(
                project,
                titles.get(project.id),
                score,
                line,
                today.get(project.id, 0),
                new[project.id],
                active[project.id],
            )
        )
    return rows


def _received(session: Session, project_ids: Sequence[int] | None) -> dict[int, int]:
    """Project id -> annotations whose newest state arrived within 24 hours; None for all projects."""
    counts = select(Annotation.project_id, func.count()).where(
        Annotation.received_at > now() - DAY, Annotation.is_deleted.is_(False)
    )
    if project_ids is not None:
        counts = counts.where(Annotation.project_id.in_(project_ids))
    return {row[0]: row[1] for row in session.execute(counts.group_by(Annotation.project_id))}


def _figure(newest: Sequence[ModelVersion]) -> tuple[Score | None, Spark | None]:
    """The newest score, and the line of the same metric of the same control tag.

    Args:
        newest: the newest version first.
    """
    all_scores = [version_scores.scores(version.metrics) for version in newest]
    last = next((scores[0] for scores in all_scores if scores), None)
    if last is None:
        return None, None
    values = [
        score.value
        for scores in reversed(all_scores)
        for score in scores
        if (score.control_tag, score.metric) == (last.control_tag, last.metric)
    ]
    text = f"{last.metric} of {last.control_tag} in the last {len(values)} versions: {_course(values)}"
    return last, spark(values, text)


def _course(values: Sequence[float]) -> str:
    if len(values) == 1:
        return percent(values[0])
    return f"from {percent(values[0])} to {percent(values[-1])}"
