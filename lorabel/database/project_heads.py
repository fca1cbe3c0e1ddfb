"""Rows of the fitted heads that answer, and which projects need theirs fitted anew.

A project's heads are a function of its annotations and its label config. `Project.annotation_revision` counts the
changes of annotations, `Project.head_revision` says up to which of them the heads were fitted.
"""

from collections.abc import Mapping

from sqlalchemy import delete, or_, select
from sqlalchemy.orm import Session

from lorabel.database.tables import Project, ProjectHead

# `Project.head_revision` if features were missing when the heads were fitted, so that they are fitted again.
INCOMPLETE = -1


def count_change(project: Project) -> None:
    """Note that annotations were changed, in the same transaction. The caller has locked the project's row."""
    project.annotation_revision += 1


def list_due(session: Session) -> list[int]:
    """The ids of the projects whose annotations or label configs have changed since their heads were fitted."""
    is_due = or_(
        Project.annotation_revision != Project.head_revision,
        Project.label_config.is_distinct_from(Project.head_config),
    )
    due = select(Project.id).where(Project.is_deleted.is_(False), Project.label_config.is_not(None), is_due)
    return list(session.scalars(due.order_by(Project.id)))


def of_project(session: Session, project_id: int) -> dict[str, ProjectHead]:
    """from_name -> the newest head, whether or not it answers under the present label config."""
    rows = select(ProjectHead).where(ProjectHead.project_id == project_id)
    return {row.from_name: row for row in session.scalars(rows)}


def answering(session: Session, project: Project) -> dict[str, ProjectHead]:
    """from_name -> the head that answers now. Control tags without a head are missing."""
    return of_project(session, project.id) if project.has_heads else {}


def replace(session: Session, project: Project, heads: Mapping[str, ProjectHead], number: int) -> None:
    """Make these the heads of the project. The caller has locked the project's row.

    Args:
        heads: by control tag, with a head for each that has one.
        number: of the newest of them; 0 if there is none.
    """
    session.execute(delete(ProjectHead).where(ProjectHead.project_id == project.id))
    session.add_all(heads.values())
    project.head_number = number
