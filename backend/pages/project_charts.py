"""Charts of the project's page: whether scores can be believed, how much more annotations help, and the course of
days."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from sqlalchemy.orm import Session

from backend.pages.charts import Fitted, LineChart, Point, line_chart
from backend.pages.formats import integer, percent
from lorabel.database import version_scores
from lorabel.database.newest_answers import Answer
from lorabel.database.tables import Project
from lorabel.database.version_scores import Score
from lorabel.evaluation.agreement import Outcome
from lorabel.evaluation.learning_curve import Expected, LearningCurve, Needed, fit
from lorabel.evaluation.proportions import Interval, wilson

MOST_BINS, FEWEST_IN_BIN = 10, 20
MOST_DAYS = 7
MOST_VERSIONS = 50
# How far the curve is drawn beyond the last version, and at how many places.
BEYOND, PLACES = 2.0, 40


@dataclass(frozen=True)
class Bin:
    """Shown predictions with similar scores. `interval`: of the share that was accepted unchanged."""

    lowest: float
    highest: float
    mean: float
    shown: int
    accepted: int

    @property
    def share(self) -> float:
        """Of the shown predictions, those that were accepted unchanged."""
        return self.accepted / self.shown

    @property
    def interval(self) -> Interval:
        """Of `share`."""
        return wilson(self.accepted, self.shown)


@dataclass(frozen=True)
class Calibration:
    """How often predictions were accepted, by their scores.

    Attributes:
        chart: None if there are too few.
        error: by how much share and score differ, as a mean over predictions (expected calibration error).
        shown: of our predictions with a score that annotators were shown.
    """

    chart: LineChart | None
    bins: Sequence[Bin]
    error: float
    shown: int


def calibration(project: Project, answers: Sequence[Answer]) -> Calibration:
    """Compare scores of predictions with what annotators did. Predictions of other models do not count."""
    ours = f"p{project.id}.v"
    scored = sorted(
        (min(1.0, max(0.0, answer.score)), answer.outcome is Outcome.UNCHANGED)
        for answer in answers
        if answer.score is not None and answer.outcome is not None and (answer.version or "").startswith(ours)
    )
    count = min(MOST_BINS, len(scored) // FEWEST_IN_BIN)
    ends = [round(len(scored) * number / count) for number in range(count + 1)] if count > 1 else []
    bins = []
    for start, end in pairwise(ends):
        part = scored[start:end]
        mean = sum(score for score, _ in part) / len(part)
        bins.append(Bin(part[0][0], part[-1][0], mean, len(part), sum(accepted for _, accepted in part)))
    points = [Point(row.mean, row.share, row.interval.low, row.interval.high, _text(row)) for row in bins]
    diagonal = [Fitted(share, share, share, share) for share in (0.0, 1.0)]
    title = "share of predictions that were accepted unchanged, by their score; the diagonal is where both agree"
    error = sum(row.shown * abs(row.share - row.mean) for row in bins) / len(scored) if bins else 0.0
    return Calibration(
        line_chart(title, "score", points, fitted=diagonal, is_x_share=True), bins, error, len(scored)
    )


def _text(row: Bin) -> str:
    scores = f"{percent(row.lowest)} to {percent(row.highest)}"
    return f"scores {scores}: {percent(row.share)} of {row.shown} unchanged"


@dataclass(frozen=True)
class Growth:
    """How a figure grows with annotations.

    Attributes:
        reason: why there is no curve; None if there is one.
        needed: annotations in all for `target`; None without a curve.
        rows: what is expected, at some numbers of annotations.
    """

    metric: str
    chart: LineChart | None
    reason: str | None
    annotations: int
    target: float
    needed: Needed | None
    rows: Sequence[Expected]


def growth(session: Session, project_id: int, newest: Score | None, target: float) -> Growth | None:
    """Fit the learning curve of a control tag. None if no version was measured.

    Args:
        newest: the control tag's score of the newest version.
    """
    if newest is None:
        return None
    tag, metric = newest.control_tag, newest.metric
    measured = version_scores.measured(session, project_id, tag, metric, MOST_VERSIONS)
    most = max((version.annotations for version in measured), default=0)
    curve = fit(measured)
    if not isinstance(curve, LearningCurve):
        return Growth(metric, None, curve, most, target, None, [])
    least = min(version.annotations for version in measured if version.annotations)
    step = (BEYOND * most - least) / PLACES
    places = curve.expected([least + step * number for number in range(PLACES + 1)])
    points = [
        Point(
            version.annotations,
            version.value,
            text=f"{integer(version.annotations)} annotations: {metric} {percent(version.value, 1)}",
        )
        for version in measured
    ]
    chart = line_chart(
        f"{metric} of {tag} by annotations, with the curve that is expected up to {integer(round(BEYOND * most))}",
        "annotations",
        points,
        fitted=[Fitted(place.annotations, place.low, place.value, place.high) for place in places],
    )
    rows = curve.expected([most, 1.5 * most, 2.0 * most])
    return Growth(metric, chart, None, most, target, curve.needed(target), rows)


def outcomes_by_day(answers: Sequence[Answer]) -> list[tuple[str, Mapping[Outcome, int], int]]:
    """Day (UTC) -> what became of predictions that were shown, and of how many; the newest day first."""
    days: dict[str, Counter[Outcome]] = {}
    for answer in answers:
        if answer.outcome is not None:
            days.setdefault(f"{answer.at:%Y-%m-%d}", Counter())[answer.outcome] += 1
    newest = sorted(days, reverse=True)[:MOST_DAYS]
    return [(day, days[day], sum(days[day].values())) for day in newest]
