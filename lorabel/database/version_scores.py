"""The scores of versions, as the runs that made them measured them, by control tag.

A version's scores are about the tasks of its own run, on which the version that was live was measured, too.
Scores of different versions may be about different tasks.
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import case, func, select
from sqlalchemy.orm import Session

from lorabel.database import versions
from lorabel.database.tables import ModelVersion
from lorabel.evaluation.learning_curve import Measured
from lorabel.evaluation.proportions import Interval, wilson

# Key in a version's metrics: by control tag, the name of the metric that decides.
PRIMARY = "primary"
# Metrics that are a share of tasks, whose interval follows from the number of tasks.
SHARES_OF_TASKS = frozenset({"accuracy"})
# Names of control tags that both databases can look up in JSON.
PLAIN_NAME = re.compile(r"\w(?:[\w .-]*\w)?")
# How decisions name the metric where a version has no PRIMARY: `label: map_50 0.812 is better than live's ...`.
IN_DECISION = re.compile(r"(\w+) [\d.]+ is (?:no )?(?:better|worse) than")
# A project of whose newest versions, of this number, none was measured has no score.
MOST_UNMEASURED = 12


@dataclass(frozen=True)
class Score:
    """The deciding metric of a version for a control tag, in [0, 1]; higher is better.

    Attributes:
        live: of the version that was live when this one was trained, on the same tasks; None if unknown.
        tasks: on how many tasks both were measured.
        interval: of `value`; None if the metric is no share of tasks.
    """

    control_tag: str
    metric: str
    value: float
    live: float | None
    tasks: int
    interval: Interval | None


def scores(metrics: Mapping[str, Any]) -> list[Score]:
    """The scores of a version with these metrics, in the order of its control tags."""
    of_tags = []
    for tag, values in metrics.get("candidate", {}).items():
        metric = _primary(metrics, tag)
        value = values.get(metric) if metric else None
        if metric is None or not isinstance(value, int | float):
            continue
        live = metrics.get("live", {}).get(tag, {}).get(metric)
        tasks = int(values.get("tasks") or 0)
        is_share = metric in SHARES_OF_TASKS and tasks
        interval = wilson(round(value * tasks), tasks) if is_share else None
        of_tags.append(Score(tag, metric, float(value), live, tasks, interval))
    return of_tags


def newest_of_each(session: Session, project_ids: Sequence[int]) -> dict[int, Score]:
    """Project id -> the score of its newest version that was measured, for the first control tag of that version.

    The newest version of a project mostly was. Only where it was not, the versions before it are read.
    """
    newest: dict[int, Score] = {}
    for most in (1, MOST_UNMEASURED):
        missing = [project_id for project_id in project_ids if project_id not in newest]
        for project_id, rows in versions.newest_of_each(session, missing, most).items():
            score = next((score for row in rows for score in scores(row.metrics)), None)
            if score is not None:
                newest[project_id] = score
    return newest


def courses(session: Session, newest: Mapping[int, Score], most: int) -> dict[int, list[float]]:
    """Project id -> the metric of this score of the project's newest versions, at most `most`, the oldest first.

    The database takes the numbers out of the metrics, which are long. Versions without the number are left out,
    and projects whose control tag has an unusual name.
    """
    metrics: Any = ModelVersion.metrics
    projects: dict[tuple[str, str], list[int]] = defaultdict(list)
    for project_id, score in newest.items():
        if PLAIN_NAME.fullmatch(score.control_tag):
            projects[score.control_tag, score.metric].append(project_id)
    values = [
        (ModelVersion.project_id.in_(ids), metrics["candidate", tag, metric].as_float())
        for (tag, metric), ids in projects.items()
    ]
    if not values:
        return {}
    place = func.row_number().over(partition_by=ModelVersion.project_id, order_by=ModelVersion.number.desc())
    ranked = select(ModelVersion.id, place.label("place")).where(ModelVersion.project_id.in_(newest)).subquery()
    rows = (
        select(ModelVersion.project_id, case(*values))
        .join(ranked, ranked.c.id == ModelVersion.id)
        .where(ranked.c.place <= most)
        .order_by(ModelVersion.number)
    )
    courses: dict[int, list[float]] = {project_id: [] for project_id in newest}
    for project_id, value in session.execute(rows):
        if value is not None:
            courses[project_id].append(float(value))
    return courses


def measured(session: Session, project_id: int, control_tag: str, metric: str, most: int) -> list[Measured]:
    """A metric of a project's newest versions, at most `most`, with how many annotations they learned from."""
    if not PLAIN_NAME.fullmatch(control_tag):
        return []
    metrics: Any = ModelVersion.metrics
    rows = (
        select(
            func.json_array_length(ModelVersion.trained_on),
            metrics["candidate", control_tag, metric].as_float(),
            metrics["candidate", control_tag, "tasks"].as_float(),
        )
        .where(ModelVersion.project_id == project_id)
        .order_by(ModelVersion.number.desc())
        .limit(most)
    )
    return [
        Measured(annotations, float(value), int(tasks))
        for annotations, value, tasks in session.execute(rows)
        if value is not None and tasks is not None and 0 <= value <= 1
    ]


def _primary(metrics: Mapping[str, Any], tag: str) -> str | None:
    """The deciding metric of a control tag. Versions from before PRIMARY name it where they were judged."""
    recorded = metrics.get(PRIMARY, {}).get(tag) or metrics.get(versions.OVER_HEAD, {}).get(tag, {}).get("metric")
    if recorded:
        return str(recorded)
    said = str(metrics.get("decision", ""))
    match = IN_DECISION.search(said[max(0, said.find(f"{tag}: ")) :])
    return match[1] if match else None
