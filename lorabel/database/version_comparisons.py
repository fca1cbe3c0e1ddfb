"""Two versions side by side: the tasks that both were judged on, and which of them changed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from lorabel.database import task_outcomes, version_scores, versions
from lorabel.database.task_outcomes import Side
from lorabel.evaluation.paired import TINY, Paired


@dataclass(frozen=True)
class ChangedTask:
    """A task that one of two versions answers better than the other. The values are of the deciding metric."""

    task_id: int
    first: float
    second: float


@dataclass(frozen=True)
class TagComparison:
    """Two versions by the tasks of a control tag.

    Attributes:
        metric: whose values are compared; None if the version does not say.
        better: the tasks that the second answers better, the largest change first.
        worse: those that it answers worse.
    """

    control_tag: str
    metric: str | None
    counts: Paired
    better: Sequence[ChangedTask]
    worse: Sequence[ChangedTask]


@dataclass(frozen=True)
class VersionComparison:
    """Two versions, by control tag.

    Attributes:
        sides: where their outcomes are; None if nothing is known of one of them.
        is_same_run: whether one run has judged both, at the same time. Else each was judged in its own run.
    """

    sides: tuple[Side, Side] | None
    is_same_run: bool
    tags: Sequence[TagComparison]


def compare(session: Session, project_id: int, first: int, second: int) -> VersionComparison:
    """Compare two versions, by their numbers. 0 is the base models."""
    sides = task_outcomes.sides(session, project_id, first, second)
    if sides is None:
        return VersionComparison(None, False, ())
    values = [task_outcomes.values(session, project_id, side) for side in sides]
    metrics = versions.get(session, project_id, sides[1].number).metrics
    by_tag: dict[str, list[ChangedTask]] = {}
    for tag, task_id in sorted(values[0].keys() & values[1].keys()):
        task = ChangedTask(task_id, values[0][tag, task_id], values[1][tag, task_id])
        by_tag.setdefault(tag, []).append(task)
    primary: Mapping[str, Any] = metrics.get(version_scores.PRIMARY, {})
    tags = [_of_tag(tag, primary.get(tag), tasks) for tag, tasks in by_tag.items()]
    return VersionComparison(sides, sides[0].number == sides[1].number, tags)


def _of_tag(tag: str, metric: str | None, tasks: Sequence[ChangedTask]) -> TagComparison:
    by_change = sorted(tasks, key=lambda task: -abs(task.second - task.first))
    return TagComparison(
        tag,
        metric,
        Paired.of([(task.first, task.second) for task in tasks]),
        [task for task in by_change if task.second - task.first > TINY],
        [task for task in by_change if task.first - task.second > TINY],
    )
