"""The labeled tasks of a data set as the annotations of project 1, in the order in which they are annotated."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from lorabel.contracts import MediaRef
from lorabel.database.tables import Annotation
from lorabel.labeling.regions import Region, choices

START = datetime(2026, 1, 1, tzinfo=UTC)


def annotations_of(tasks: Iterable[tuple[dict[str, Any], list[Region]]], old: int = 0) -> list[Annotation]:
    """Annotate tasks one after the other.

    Args:
        tasks: the data and the regions of each task.
        old: how many of the first tasks were in an earlier run.
    """
    return [
        Annotation(
            id=number,
            project_id=1,
            task_id=number,
            task_data=data,
            result=result,
            ground_truth=False,
            updated_at=START + timedelta(seconds=number),
            received_at=START + timedelta(seconds=number),
            run_id=1 if number <= old else None,
        )
        for number, (data, result) in enumerate(tasks, 1)
    ]


def chosen(labeled_tasks: Iterable[tuple[dict[str, Any], str]]) -> list[tuple[dict[str, Any], list[Region]]]:
    """The tasks with their labels as the regions of the choices `label` about `object`."""
    return [(data, [choices("label", "object", [label])]) for data, label in labeled_tasks]


def unchanged(media: MediaRef) -> MediaRef:
    """Resolve media that have full addresses."""
    return media
