"""Rows of Label Studio projects: read, inserted when a project is first heard of, updated."""

from collections.abc import Collection
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from lorabel.database.store import Store
from lorabel.database.tables import Project
from lorabel.errors import NotFoundError


def get(session: Session, project_id: int, *, is_locked: bool = False) -> Project:
    """Return a project's row.

    Args:
        is_locked: lock the row until the transaction ends, so that nobody else changes it.

    Raises:
        NotFoundError: no such project.
    """
    project = session.get(Project, project_id, with_for_update=True if is_locked else None)
    if project is None:
        raise NotFoundError(f"project {project_id} is not known here; connect it with `lorabel connect`")
    return project


def list_all(session: Session) -> list[Project]:
    """All projects that were not deleted in Label Studio, by id."""
    return list(session.scalars(select(Project).where(Project.is_deleted.is_(False)).order_by(Project.id)))


def ensure(store: Store, session: Session, project_id: int) -> Project:
    """Return a project's row, inserted if it is missing. Two requests may do this at the same time."""
    ensure_all(store, session, [project_id])
    return session.get_one(Project, project_id)


def ensure_all(store: Store, session: Session, project_ids: Collection[int]) -> None:
    """Insert the rows that are missing.

    Rows are inserted in the order of their ids, so that two transactions that insert the same rows cannot
    wait for each other.
    """
    rows = [{"id": project_id} for project_id in sorted(project_ids)]
    if rows:
        session.execute(store.insert(Project).on_conflict_do_nothing(index_elements=["id"]), rows)


def upsert(store: Store, project_id: int, **columns: Any) -> Project:
    """Update columns of a project's row, inserted if it is missing.

    Where the row has these values already, it is only read: a read waits for no other transaction.
    """
    with store.read() as session:
        project = session.get(Project, project_id)
        if project is not None and all(getattr(project, name) == value for name, value in columns.items()):
            return project
    with store.write() as session:
        project = ensure(store, session, project_id)
        for name, value in columns.items():
            setattr(project, name, value)
    return project
