"""Projects as the database knows them, and which credentials reach their Label Studio."""

from collections.abc import Collection
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from lorabel.database.store import Store
from lorabel.database.tables import Project
from lorabel.errors import NotFoundError


def get(session: Session, project_id: int, *, is_locked: bool = False) -> Project:
    """Raises NotFoundError. `is_locked`: nobody else changes the project until the transaction ends."""
    project = session.get(Project, project_id, with_for_update=True if is_locked else None)
    if project is None:
        raise NotFoundError(f"project {project_id} is not known here; connect it with `lorabel connect`")
    return project


def list_all(session: Session) -> list[Project]:
    return list(session.scalars(select(Project).where(Project.is_deleted.is_(False)).order_by(Project.id)))


def ensure(store: Store, session: Session, project_id: int) -> Project:
    """The project's row, made now if it is new. Safe when two requests make it at once."""
    ensure_all(store, session, [project_id])
    return session.get_one(Project, project_id)


def ensure_all(store: Store, session: Session, project_ids: Collection[int]) -> None:
    """Without reading them, and in one order, so that two requests that make the same ones wait but once."""
    rows = [{"id": project_id} for project_id in sorted(project_ids)]
    if rows:
        session.execute(store.insert(Project).on_conflict_do_nothing(index_elements=["id"]), rows)


def remember(store: Store, project_id: int, **columns: Any) -> Project:
    """Write what is new about a project; nothing is written where nothing changed (a read is enough)."""
    with store.read() as session:
        project = session.get(Project, project_id)
        if project is not None and all(getattr(project, name) == value for name, value in columns.items()):
            return project
    with store.write() as session:
        project = ensure(store, session, project_id)
        for name, value in columns.items():
            setattr(project, name, value)
    return project
