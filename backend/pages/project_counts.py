"""What is counted over all annotations of a project, or over thousands of the newest; kept where that is slow."""

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import func, select

from lorabel.database import group_answers, shown_predictions
from lorabel.database.shown_predictions import Shown
from lorabel.database.store import Store
from lorabel.database.tables import Annotation
from lorabel.database.training_runs import IS_USABLE
from lorabel.evaluation.group_figures import Groups, compare_groups

# Of so many projects, and fields of projects, slow counts are kept.
MOST_PROJECTS, MOST_FIELDS = 256, 64
# Of the newest annotations, so that the page comes soon. `lorabel groups` and REST read more.
MOST_GROUPED = 2000


@dataclass(frozen=True)
class Counts:
    """What is counted.

    Attributes:
        annotations: usable ones.
        by_version: name of a version -> what annotators did with its predictions, whatever head was theirs.
        base: what they did with those that the base models made alone.
    """

    annotations: int
    by_version: Mapping[str, Shown]
    base: Shown


def count(store: Store, project_id: int) -> Counts:
    """Count all annotations of a project."""
    usable = (Annotation.project_id == project_id, Annotation.task_id.is_not(None), *IS_USABLE)
    with store.read() as session:
        return Counts(
            session.scalar(select(func.count(Annotation.id)).where(*usable)) or 0,
            *shown_predictions.read(session, project_id),
        )


def find_groups(store: Store, key: tuple[int, str]) -> Groups:
    """Figures by the values of a field of the tasks, of the newest MOST_GROUPED annotations.

    Args:
        key: id of the project, and the field.

    Raises:
        BadRequestError: no field can be named so.
    """
    project_id, field = key
    with store.read() as session:
        return compare_groups(group_answers.shown_by_group(session, project_id, field, MOST_GROUPED))
