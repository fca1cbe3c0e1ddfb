"""The page of a version: what it learned from and how, how it was judged, and the buttons that make it live."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from backend.pages.charts import LineChart, Point, line_chart
from backend.pages.project import link_of
from backend.pages.run_rows import RunRow, of_training
from backend.services import Services
from lorabel.database import project_heads, task_outcomes, version_scores, versions
from lorabel.database import projects as project_rows
from lorabel.database.shown_predictions import Shown
from lorabel.database.tables import ModelVersion, Project, TrainingRun, VersionState, version_name
from lorabel.database.version_scores import Score
from lorabel.errors import ConflictError
from lorabel.evaluation.proportions import Interval, wilson

MOST_CLASSES = 100
MOST_CONFUSED = 20
MOST_IDS = 200


@dataclass(frozen=True)
class ScoreRow:
    """A metric of the candidate and of what was live, on the same tasks."""

    metric: str
    candidate: float | None
    live: float | None
    is_deciding: bool

    @property
    def difference(self) -> float | None:
        """By how much the candidate is higher; None if one of the two is missing."""
        return None if self.candidate is None or self.live is None else self.candidate - self.live


@dataclass(frozen=True)
class ClassRow:
    """A label's figures on the tasks of the evaluation. Each is None where the metric has no such figure."""

    label: str
    precision: float | None
    recall: float | None
    f1: float | None
    support: int | None


@dataclass(frozen=True)
class TagEvaluation:
    """How a version was judged for a control tag.

    Attributes:
        tasks: that both were judged on, with their addresses in Label Studio, as far as these are known.
        labels, confusion: a row for each right label and a column for each predicted one; empty if not measured.
    """

    control_tag: str
    score: Score | None
    rows: Sequence[ScoreRow]
    classes: Sequence[ClassRow]
    tasks: Sequence[tuple[int, str | None]]
    labels: Sequence[str]
    confusion: Sequence[Sequence[int]]


@dataclass(frozen=True)
class VersionPage:
    """What the page shows. `row` is None for version 0, the base models."""

    project: Project
    title: str | None
    label_studio_link: str | None
    name: str
    number: int
    row: ModelVersion | None
    state: str
    annotations: int
    annotation_ids: Sequence[int]
    run: RunRow | None
    recipe: Mapping[str, Any]
    heads: Mapping[str, Any]
    evaluations: Sequence[TagEvaluation]
    losses: Sequence[tuple[str, LineChart]]
    shown: Shown

    @property
    def is_live(self) -> bool:
        """Whether it answers now."""
        return self.number == self.project.live_number

    @property
    def accepted_interval(self) -> Interval:
        """Of the share of its shown predictions that were accepted."""
        return wilson(self.shown.accepted, self.shown.shown)

    @property
    def decision(self) -> str:
        """Why it was promoted or rejected; empty for the base models."""
        return "" if self.row is None else str(self.row.metrics.get("decision", ""))


@dataclass(frozen=True)
class Promotion:
    """What making a version live would do, for the page that asks.

    Attributes:
        row: None for version 0, the base models.
        live: the name of the version that is live.
        heads: by control tag, what is known of the heads that are stored with the version.
    """

    project: Project
    title: str | None
    name: str
    row: ModelVersion | None
    live: str
    is_rollback: bool
    heads: Mapping[str, Any]


def read_version(services: Services, project_id: int, name: str) -> VersionPage:
    """Read what the page shows.

    Args:
        name: `3`, `v3` or `p12.v3`.

    Raises:
        NotFoundError: no such project or version.
    """
    with services.store.read() as session:
        project = project_rows.get(session, project_id)
        number = versions.parse_number(project_id, name)
        row = versions.get(session, project_id, number) if number else None
        run = None if row is None or row.run_id is None else session.get(TrainingRun, row.run_id)
        judged = task_outcomes.task_ids(session, project_id, number) if number else {}
    link = link_of(services, project)
    by_version = services.project_counts.get(project_id).by_version
    base_state = VersionState.RETIRED if project.live_number else VersionState.LIVE
    trained_on = [] if row is None else row.trained_on
    return VersionPage(
        project,
        services.vitals.title(project_id),
        link,
        version_name(project_id, number),
        number,
        row,
        base_state if row is None else row.state,
        len(trained_on),
        trained_on[-MOST_IDS:],
        None if run is None else of_training(run),
        _recipe(run),
        {} if row is None else row.metrics.get(project_heads.VERSION_HEADS, {}),
        [] if row is None else _evaluations(row, judged, link),
        [] if run is None else loss_charts(run.losses),
        by_version.get(version_name(project_id, number), Shown()),
    )


def read_promotion(services: Services, project_id: int, name: str | None) -> Promotion:
    """Read what making a version live would do.

    Args:
        name: of the version; None to go back to the parent of the live version.

    Raises:
        NotFoundError: no such project or version.
        ConflictError: the version's adapters were removed, or there is nothing to go back to.
    """
    with services.store.read() as session:
        project = project_rows.get(session, project_id)
        number = _parent(session, project) if name is None else versions.parse_number(project_id, name)
        row = versions.get(session, project_id, number) if number else None
    if row is not None:
        versions.require_adapters(row)
    return Promotion(
        project,
        services.vitals.title(project_id),
        version_name(project_id, number),
        row,
        project.live_version,
        name is None,
        {} if row is None else row.metrics.get(project_heads.VERSION_HEADS, {}),
    )


def loss_charts(losses: Mapping[str, Any] | None) -> list[tuple[str, LineChart]]:
    """The training loss by step, for each control tag that was trained.

    Args:
        losses: those of the run's row.
    """
    charts = []
    for tag, steps in (losses or {}).items():
        points = [Point(step, loss, text=f"step {step:.0f}: loss {loss:.4f}") for step, loss in steps]
        if not points:
            continue
        first, last = points[0], points[-1]
        title = f"training loss of {tag} by step, from {first.y:.3f} to {last.y:.3f} after {last.x:.0f} steps"
        chart = line_chart(title, "step", points, is_share=False)
        if chart is not None:
            charts.append((tag, chart))
    return charts


def _parent(session: Session, project: Project) -> int:
    if not project.live_number:
        raise ConflictError(f"project {project.id} runs on the base models: there is nothing to go back to")
    return versions.get(session, project.id, project.live_number).parent


def _recipe(run: TrainingRun | None) -> dict[str, Any]:
    """The recipe of a run without what its comparison with Label Studio found."""
    config = {} if run is None else run.config or {}
    return {name: value for name, value in config.items() if name != "compared" and value is not None}


def _evaluations(row: ModelVersion, judged: Mapping[str, Sequence[int]], link: str | None) -> list[TagEvaluation]:
    """How the version was judged for each control tag.

    Args:
        judged: control tag -> the tasks that it was judged on.
        link: of the project's tasks in Label Studio.
    """
    by_tag = {score.control_tag: score for score in version_scores.scores(row.metrics)}
    evaluations = []
    for tag, values in row.metrics.get("candidate", {}).items():
        live = row.metrics.get("live", {}).get(tag, {})
        score = by_tag.get(tag)
        deciding = None if score is None else score.metric
        rows = [
            ScoreRow(metric, _number(values.get(metric)), _number(live.get(metric)), metric == deciding)
            for metric in {**values, **live}
            if metric != "tasks" and (_number(values.get(metric)), _number(live.get(metric))) != (None, None)
        ]
        rows.sort(key=lambda row: not row.is_deciding)
        labels, table = _confusion(values)
        tasks = [(task_id, link and f"{link}?task={task_id}") for task_id in judged.get(tag, ())]
        evaluations.append(TagEvaluation(tag, score, rows, _classes(values), tasks, labels, table))
    return evaluations


def _classes(values: Mapping[str, Any]) -> list[ClassRow]:
    per_class = values.get("per_class", {})
    rows = [
        ClassRow(
            label,
            _number(figures.get("precision")),
            _number(figures.get("recall")),
            _number(figures.get("f1")),
            figures.get("support"),
        )
        for label, figures in per_class.items()
    ]
    return sorted(rows, key=lambda row: -(row.support or 0))[:MOST_CLASSES]


def _confusion(values: Mapping[str, Any]) -> tuple[list[str], list[list[int]]]:
    """The confusion matrix where a task has one label; none for two times two numbers of each label."""
    labels, table = values.get("labels", []), values.get("confusion", [])
    is_square = bool(table) and len(labels) <= MOST_CONFUSED and all(isinstance(row[0], int) for row in table)
    return (labels, table) if is_square else ([], [])


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
