"""The page of a project: how good its answers are, by version, by annotations and by label, and what they save."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from flask import request
from sqlalchemy.orm import Session

from backend.pages.charts import LineChart, Point, line_chart
from backend.pages.formats import percent
from backend.pages.paging import Page, read_page
from backend.pages.project_charts import Calibration, Growth, calibration, growth, outcomes_by_day
from backend.pages.run_rows import RunRow, of_bulk, of_training
from backend.services import Services
from lorabel.database import bulk_runs, newest_answers, privacy_ledger, training_runs, version_scores, versions
from lorabel.database import projects as project_rows
from lorabel.database.newest_answers import Answer
from lorabel.database.shown_predictions import Shown
from lorabel.database.tables import ModelVersion, Project, VersionState
from lorabel.database.version_scores import Score
from lorabel.errors import BadRequestError
from lorabel.evaluation.agreement import Confusion, LabelFigures, Outcome, Spread, confusion, label_figures, spread
from lorabel.evaluation.proportions import Interval, cases_needed, wilson
from lorabel.label_studio.access import data_manager_link, label_studio_access

# So many of the newest annotations are looked at.
MOST_ANSWERS = 1000
MOST_BUCKETS = 12
SMALLEST_BUCKET = 10
MOST_LABELS = 100
MOST_CONFUSED = 12
NEWEST_RUNS = 6
TARGETS = (0.8, 0.9, 0.95, 0.98)
DEFAULT_TARGET = 0.9


class Trust(StrEnum):
    """Whether a label's pre-annotations are right often enough."""

    ENOUGH = "enough to trust"
    NOT_YET = "not yet"
    TOO_FEW = "too few to tell"


@dataclass(frozen=True)
class LabelRow:
    """A label with its light. `needed`: how many more predictions could prove it at the present precision."""

    figures: LabelFigures
    trust: Trust
    needed: int | None


@dataclass(frozen=True)
class VersionRow:
    """A version in the list. `row` is None for version 0, the base models."""

    name: str
    number: int
    row: ModelVersion | None
    state: str
    annotations: int
    scores: Sequence[Score]
    shown: Shown

    @property
    def accepted_interval(self) -> Interval:
        """Of the share of its shown predictions that were accepted."""
        return wilson(self.shown.accepted, self.shown.shown)


@dataclass(frozen=True)
class ProjectPage:
    """What the page shows.

    Attributes:
        outcomes: of the newest predictions that annotators were shown.
        looked_at: how many of the newest annotations the figures are about.
        base: of the base models' predictions alone, all that were ever shown.
        privacy: what was spent for differential privacy; None if nothing was.
    """

    project: Project
    title: str | None
    label_studio_link: str | None
    annotations: int
    looked_at: int
    live_shown: Shown
    base: Shown
    outcomes: Mapping[Outcome, int]
    with_prediction: Spread | None
    without_prediction: Spread | None
    versions: Page[VersionRow]
    scores_chart: LineChart | None
    accepted_chart: LineChart | None
    accepted_rows: Sequence[tuple[str, int, int, Interval]]
    days: Sequence[tuple[str, Mapping[Outcome, int], int]]
    calibration: Calibration
    growth: Growth | None
    tags: Sequence[str]
    tag: str | None
    target: float
    labels: Sequence[LabelRow]
    hidden_labels: int
    confusion: Confusion | None
    runs: Sequence[RunRow]
    privacy: privacy_ledger.Spent | None

    @property
    def shown(self) -> int:
        """How many of the newest predictions have a known outcome."""
        return sum(self.outcomes.values())

    @property
    def live_interval(self) -> Interval:
        """Of the share of the live version's shown predictions that were accepted."""
        return wilson(self.live_shown.accepted, self.live_shown.shown)


def read_project(services: Services, project_id: int) -> ProjectPage:
    """Read what the page shows. The URL's fields `tag`, `target` and `page` choose what.

    Raises:
        NotFoundError: no such project.
        BadRequestError: a field of the URL is none that is known.
    """
    target, counts = _read_target(), services.project_counts.get(project_id)
    with services.store.read() as session:
        project = project_rows.get(session, project_id)
        answers = newest_answers.newest(session, project_id, MOST_ANSWERS)
        page = read_page(
            "page", lambda offset, limit: _versions(session, project, counts.by_version, offset, limit)
        )
        runs = [
            *map(of_training, training_runs.page_of(session, project_id, 0, NEWEST_RUNS)),
            *map(of_bulk, bulk_runs.page_of(session, project_id, 0, NEWEST_RUNS)),
        ]
        shown = [case for answer in answers if (case := answer.shown) is not None]
        figures = label_figures(shown)
        all_scores = [score for row in page.rows for score in row.scores]
        tags = list(
            dict.fromkeys([score.control_tag for score in all_scores] + [figure.control_tag for figure in figures])
        )
        asked = request.args.get("tag")
        tag = asked if asked in tags else next(iter(tags), None)
        newest = next((score for score in all_scores if score.control_tag == tag), None)
        grown = growth(session, project_id, newest, target)
        spent = privacy_ledger.spent(session, project_id)
    of_tag = [figure for figure in figures if figure.control_tag == tag]
    buckets = _buckets(answers, counts.annotations)
    return ProjectPage(
        project,
        services.vitals.title(project_id),
        link_of(services, project),
        counts.annotations,
        len(answers),
        counts.by_version.get(project.live_version, Shown()),
        counts.base,
        Counter(case.outcome for case in shown),
        spread([answer.lead_time_s for answer in answers if _is_timed(answer) and answer.has_prediction]),  # type: ignore[misc]
        spread([answer.lead_time_s for answer in answers if _is_timed(answer) and not answer.has_prediction]),  # type: ignore[misc]
        page,
        _scores_chart(page.rows, tag),
        _accepted_chart(buckets, counts.base),
        buckets,
        outcomes_by_day(answers),
        calibration(project, answers),
        grown,
        tags,
        tag,
        target,
        [_label_row(figure, target) for figure in of_tag[:MOST_LABELS]],
        max(0, len(of_tag) - MOST_LABELS),
        confusion(shown, tag, MOST_CONFUSED) if tag and of_tag else None,
        sorted(runs, key=lambda run: run.created_at, reverse=True)[:NEWEST_RUNS],
        spent,
    )


@dataclass(frozen=True)
class TrainingQuestion:
    """What a training run would learn from, for the page that asks. `run`: one that waits or goes on already."""

    project: Project
    title: str | None
    new: int
    run: RunRow | None


def read_training(services: Services, project_id: int) -> TrainingQuestion:
    """Read what a training run would learn from. Raises NotFoundError if there is no such project."""
    with services.store.read() as session:
        project = project_rows.get(session, project_id)
        new = training_runs.count_new(session, [project_id])[project_id]
        newest = [of_training(run) for run in training_runs.page_of(session, project_id, 0, 1)]
    active = next((run for run in newest if run.is_active), None)
    return TrainingQuestion(project, services.vitals.title(project_id), new, active)


def link_of(services: Services, project: Project) -> str | None:
    """The address of the project's tasks in Label Studio, as browsers reach it; None if that is not known."""
    url = label_studio_url(services, project)
    return None if url is None else data_manager_link(project, url)


def label_studio_url(services: Services, project: Project) -> str | None:
    """The address of Label Studio as browsers reach it; None if it is not known."""
    access = label_studio_access(project, services.settings)
    return None if access is None else access.public_url or access.url


def _read_target() -> float:
    text = request.args.get("target", str(DEFAULT_TARGET))
    if text not in map(str, TARGETS):
        raise BadRequestError(f"target={text[:20]!r} is none of {', '.join(map(str, TARGETS))}")
    return float(text)


def _versions(
    session: Session, project: Project, shown: Mapping[str, Shown], offset: int, limit: int
) -> list[VersionRow]:
    rows = [
        VersionRow(
            version.name,
            version.number,
            version,
            version.state,
            annotations,
            version_scores.scores(version.metrics),
            shown.get(version.name, Shown()),
        )
        for version, annotations in versions.page_of(session, project.id, offset, limit)
    ]
    if len(rows) < limit:
        name = f"p{project.id}.v0"
        state = VersionState.RETIRED if project.live_number else VersionState.LIVE
        rows.append(VersionRow(name, 0, None, state, 0, [], shown.get(name, Shown())))
    return rows


def _scores_chart(rows: Sequence[VersionRow], tag: str | None) -> LineChart | None:
    """The scores of the versions on the page, the oldest first."""
    points, base, metric = [], None, ""
    for row in reversed(rows):
        score = next((score for score in row.scores if score.control_tag == tag), None)
        if score is None or row.row is None:
            continue
        metric = score.metric
        if base is None and row.row.parent == 0 and score.live is not None:
            base = (score.live, f"before the first version {percent(score.live)}")
        interval = "" if score.interval is None else f", 95 % from {_ends(score.interval)}"
        text = f"{row.name}, {row.state}: {metric} {percent(score.value, 1)} on {score.tasks} tasks{interval}"
        low, high = score.interval or (None, None)
        is_rejected = row.row.promoted_at is None
        points.append(Point(row.number, score.value, low, high, text, is_rejected))
    title = f"{metric} of {tag} by version, from v{points[0].x:.0f} to v{points[-1].x:.0f}" if points else ""
    return line_chart(title, "version", points, base)


def _buckets(answers: Sequence[Answer], annotations: int) -> list[tuple[str, int, int, Interval]]:
    """Shown predictions in the order of their annotations, in parts of equal size, the oldest first.

    Returns:
        For each the numbers of its annotations in words, the number of the last of them, how many were shown, how
        many of these were accepted unchanged; and the interval of that share.
    """
    last = max(annotations, len(answers))  # the count may be older than the answers
    numbered = [
        (last - place, answer.outcome is Outcome.UNCHANGED)
        for place, answer in enumerate(answers)
        if answer.outcome is not None
    ][::-1]
    if not numbered:
        return []
    size = max(SMALLEST_BUCKET, -(-len(numbered) // MOST_BUCKETS))
    buckets = []
    for start in range(0, len(numbered), size):
        part = numbered[start : start + size]
        accepted = sum(is_accepted for _, is_accepted in part)
        buckets.append((f"{part[0][0]:,} to {part[-1][0]:,}", len(part), accepted, wilson(accepted, len(part))))
    return buckets


def _accepted_chart(buckets: Sequence[tuple[str, int, int, Interval]], base: Shown) -> LineChart | None:
    points = []
    for name, count, accepted, interval in buckets:
        share = accepted / count
        text = f"annotations {name}: {percent(share)} unchanged, 95 % from {_ends(interval)}, {count} tasks"
        last = int(name.rpartition(" ")[2].replace(",", ""))
        points.append(Point(last, share, interval.low, interval.high, text))
    level = None
    if base.shown:
        share = base.accepted / base.shown
        level = (share, f"base models alone {percent(share)} of {base.shown}")
    return line_chart("share of pre-annotations that were accepted unchanged", "annotation", points, level)


def _label_row(figures: LabelFigures, target: float) -> LabelRow:
    if figures.interval.low >= target:
        return LabelRow(figures, Trust.ENOUGH, None)
    if figures.interval.high < target:
        return LabelRow(figures, Trust.NOT_YET, None)
    cases = None if figures.precision is None else cases_needed(figures.precision, target)
    return LabelRow(figures, Trust.TOO_FEW, None if cases is None else max(1, cases - figures.predicted))


def _is_timed(answer: Answer) -> bool:
    return answer.lead_time_s is not None and answer.lead_time_s > 0


def _ends(interval: Interval) -> str:
    return f"{percent(interval.low)} to {percent(interval.high)}"
