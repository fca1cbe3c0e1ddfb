"""Projects as the database knows them, and which credentials reach their Label Studio."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin

from sqlalchemy import select
from sqlalchemy.orm import Session

from lorabel.contracts import MediaRef
from lorabel.errors import NotFoundError
from lorabel.media import ascii_url, origin
from lorabel.settings import Settings
from lorabel.store import Store
from lorabel.tables import Project


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


@dataclass(frozen=True)
class LabelStudioAccess:
    """Where a project's Label Studio is and with which token it lets us in.

    `is_trusted`: the operator named the address (by setting or `lorabel connect`). The host name that
    `/setup` carries was not checked by anyone: media there must be at public addresses like any other.
    """

    url: str
    api_key: str | None
    is_trusted: bool


def label_studio_access(project: Project, settings: Settings) -> LabelStudioAccess | None:
    """What `lorabel connect` stored for the project, else the settings, else what `/setup` said."""
    if project.label_studio_url:
        return LabelStudioAccess(project.label_studio_url, project.api_key, is_trusted=True)
    key = settings.label_studio_api_key
    if settings.label_studio_url:
        token = key.get_secret_value() if key else project.setup_token
        return LabelStudioAccess(settings.label_studio_url, token, is_trusted=True)
    if project.hostname:
        return LabelStudioAccess(project.hostname, project.setup_token, is_trusted=False)
    return None


def api_access(project: Project, settings: Settings) -> LabelStudioAccess | None:
    """Access to Label Studio's API: with a token, at an address that the operator named; else None."""
    access = label_studio_access(project, settings)
    return access if access is not None and access.is_trusted and access.api_key else None


def resolve_media(media: MediaRef, access: LabelStudioAccess | None, authorization: str | None) -> MediaRef:
    """A URL as it stands in task data -> one that can be fetched; the token goes to Label Studio's origin only.

    Args:
        authorization: the header's value for Label Studio (`Bearer ...` or `Token ...`), if there is one.

    Raises:
        UnreadableError: the URL is none.
    """
    if access is None or media.url.startswith("data:"):
        return media
    url = ascii_url(urljoin(access.url.rstrip("/") + "/", ascii_url(media.url)))
    if origin(url) != origin(access.url):
        return media
    return MediaRef(url=url, authorization=authorization, is_trusted=access.is_trusted)
