"""The page of all projects: what is live, how good it is, what goes on, and what is wrong."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
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
from backend.traffic import LastHour
from lorabel.database import projects, training_runs, version_scores
from lorabel.database.tables import Annotation, Event, EventState, Project, now
from lorabel.database.version_scores import Score

if TYPE_CHECKING:
    from lorabel.commands.checks import Check

SPARK_VERSIONS = 12
DAY = timedelta(days=1)
FIRST_WAIT_S = 1.0
# A check of a project, as the doctor names it; of so many projects with the same fault the ids are listed.
PROJECT_CHECK = re.compile(r"project (?P<id>\d+): (?P<part>.+)")
MOST_NAMED = 12


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
class Fault:
    """What the doctor finds wrong, once for all parts or projects of which it finds the same."""

    name: str
    finding: str
    remedy: str


@dataclass(frozen=True)
class Home:
    """What the page shows. `faults` and `parts` are None while they are not known yet. `traffic` is of one of
    `processes` of the backend."""

    projects: Page[ProjectRow]
    active_runs: Sequence[RunRow]
    today: int
    pending_events: int
    faults: "Taken[list[Check]] | None"
    is_examining: bool
    parts: Taken[Parts] | None
    traffic: LastHour
    processes: int

    @property
    def wrong(self) -> int:
        """How many checks have found something wrong."""
        return 0 if self.faults is None else sum(not check.is_ok for check in self.faults.value)

    @property
    def grouped_faults(self) -> list[Fault]:
        """What is wrong, in the order of the checks."""
        return group_faults([] if self.faults is None else self.faults.value)


def group_faults(checks: "Sequence[Check]") -> list[Fault]:
    """Put checks together that find the same wrong: `project 1: training`, `project 2: training` ->
    `projects 1, 2: training`."""
    names: dict[tuple[str, str, str], list[str]] = {}
    for check in checks:
        if not check.is_ok:
            match = PROJECT_CHECK.fullmatch(check.name)
            part = match["part"] if match else check.name
            names.setdefault((part, check.finding, check.remedy), []).append(match["id"] if match else "")
    return [Fault(_name(part, ids), finding, remedy) for (part, finding, remedy), ids in names.items()]


def _name(part: str, ids: Sequence[str]) -> str:
    if not any(ids):
        return part
    more = f" and {len(ids) - MOST_NAMED} more" if len(ids) > MOST_NAMED else ""
    return f"project{'s' if len(ids) > 1 else ''} {', '.join(ids[:MOST_NAMED])}{more}: {part}"


def read_home(services: Services) -> Home:
    """Read what the page shows.

    Raises:
        BadRequestError: the URL's `page` is no number.
    """
    titles = services.vitals.titles.get(FIRST_WAIT_S)
    active_runs = services.active_runs.get()
    with services.store.read() as session:
        page = read_page("page", lambda offset, limit: projects.page_of(session, offset, limit))
        today = _received(session)
        rows = _rows(session, page.rows, {} if titles is None else titles.value, active_runs, today)
        is_pending = select(func.count(Event.id)).where(Event.state == EventState.PENDING)
        pending_events = session.scalar(is_pending) or 0
    checks = services.vitals.checks.get()
    return Home(
        Page(rows, page.number, page.has_more, page.name),
        active_runs,
        sum(today.values()),
        pending_events,
        checks,
        services.vitals.checks.is_loading,
        services.vitals.parts.get(FIRST_WAIT_S),
        services.traffic.last_hour(),
        services.settings.workers,
    )


def _rows(
    session: Session,
    page: Sequence[Project],
    titles: dict[int, str],
    active_runs: Sequence[RunRow],
    today: Mapping[int, int],
) -> list[ProjectRow]:
    ids = [project.id for project in page]
    new = training_runs.count_new(session, ids)
    newest = version_scores.newest_of_each(session, ids)
    courses = version_scores.courses(session, newest, SPARK_VERSIONS)
    active = Counter(run.project_id for run in active_runs)
    return [
        ProjectRow(
            project,
            titles.get(project.id),
            newest.get(project.id),
            _line(newest.get(project.id), courses.get(project.id, ())),
            today.get(project.id, 0),
            new[project.id],
            active[project.id],
        )
        for project in page
    ]


def _received(session: Session) -> dict[int, int]:
    """Project id -> annotations whose newest state arrived within 24 hours."""
    # An expression, since SQLite would read all annotations in the order of their projects, and not the last ones.
    project_id = (Annotation.project_id + 0).label("project_id")
    counts = select(project_id, func.count()).where(
        Annotation.received_at > now() - DAY, Annotation.is_deleted.is_(False)
    )
    return {row[0]: row[1] for row in session.execute(counts.group_by(project_id))}


def _line(score: Score | None, values: Sequence[float]) -> Spark | None:
    """The course of a figure. `values`: the oldest first."""
    if score is None:
        return None
    versions = f"the last {len(values)} versions"
    return spark(values, f"{score.metric} of {score.control_tag} in {versions}: {_course(values)}")


def _course(values: Sequence[float]) -> str:
    if len(values) < 2:
        return "".join(map(percent, values))
    return f"from {percent(values[0])} to {percent(values[-1])}"
