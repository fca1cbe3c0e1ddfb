"""The REST route of two versions side by side, with its records."""

from flask import Blueprint

from backend.pages.comparison import read_numbers
from backend.project_routes import PROJECT, Answer, as_json
from backend.rest_responses import Record
from backend.services import services
from lorabel.database import projects, version_comparisons
from lorabel.database.tables import version_name
from lorabel.database.version_comparisons import ChangedTask, TagComparison

blueprint = Blueprint("comparisons", __name__, url_prefix="/api/v1")


class ChangedTaskRecord(Record):
    """A task that changed: the deciding metric of the task alone, of both versions."""

    task_id: int
    first: float
    second: float

    @classmethod
    def of(cls, task: ChangedTask) -> "ChangedTaskRecord":
        """The record of a task that changed."""
        return cls(task_id=task.task_id, first=task.first, second=task.second)


class TagComparisonRecord(Record):
    """Two versions by the tasks of a control tag. `difference`: the share of tasks that the second answers better,
    less the share that it answers worse, with its 95% interval `low` to `high`; `p_value`: of the sign test."""

    control_tag: str
    metric: str | None
    tasks: int
    same: int
    difference: float
    low: float
    high: float
    p_value: float
    better: list[ChangedTaskRecord]
    worse: list[ChangedTaskRecord]

    @classmethod
    def of(cls, tag: TagComparison) -> "TagComparisonRecord":
        """The record of the tasks of a control tag."""
        counts = tag.counts
        return cls(
            control_tag=tag.control_tag,
            metric=tag.metric,
            tasks=counts.tasks,
            same=counts.same,
            difference=counts.difference,
            low=counts.interval.low,
            high=counts.interval.high,
            p_value=counts.p_value,
            better=[ChangedTaskRecord.of(task) for task in tag.better],
            worse=[ChangedTaskRecord.of(task) for task in tag.worse],
        )


class VersionComparisonRecord(Record):
    """Two versions side by side. `control_tags` is empty if no task is known that both were judged on.
    `is_same_run`: whether one run has judged both; else each was judged in its own run."""

    first: str
    second: str
    is_same_run: bool
    control_tags: list[TagComparisonRecord]


@blueprint.get(f"{PROJECT}/versions/<version>/compare")
def compare_versions(project_id: int, version: str) -> Answer:
    """Compare a version with the one that `?with=` names, else with its parent, by the tasks that changed."""
    with services().store.read() as session:
        projects.get(session, project_id)
        first, second = read_numbers(session, project_id, version)
        comparison = version_comparisons.compare(session, project_id, first, second)
    record = VersionComparisonRecord(
        first=version_name(project_id, first),
        second=version_name(project_id, second),
        is_same_run=comparison.is_same_run,
        control_tags=[TagComparisonRecord.of(tag) for tag in comparison.tags],
    )
    return as_json(record)
