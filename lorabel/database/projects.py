"""Rows of Label Studio projects: found by what a request says, inserted when first heard of, updated.

Two Label Studios both have a project 1, and a Label Studio that was reset has another project 1 than before. The
key of a project is its id in Label Studio and the time when it was created there; Label Studio's address decides
where the time is not known. A project gets Label Studio's id as ours too, unless another project has it: then its
id is FIRST_OWN_ID or more.
"""

import logging
from collections.abc import Sequence
from datetime import datetime
from typing import Any, cast

from sqlalchemy import ColumnElement, exists, func, or_, select
from sqlalchemy.orm import Session

from lorabel.database.project_keys import LabelStudioId, ProjectKey, is_same_second
from lorabel.database.store import Store
from lorabel.database.tables import Project
from lorabel.errors import ConflictError, LabelConfigError, NotFoundError
from lorabel.labeling import renamed_labels
from lorabel.labeling.label_config import parse
from lorabel.secret_keys import PREFIX

log = logging.getLogger(__name__)

FIRST_OWN_ID = 1_000_000
# Columns that are stored encrypted (`lorabel/secret_keys.py`).
TOKENS = ("api_key", "setup_token")


def get(session: Session, project_id: int, *, is_locked: bool = False) -> Project:
    """Return a project's row.

    Args:
        project_id: our own id of the project.
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


def page_of(session: Session, offset: int, limit: int) -> list[Project]:
    """Some projects that were not deleted in Label Studio, the one that changed last first."""
    rows = select(Project).where(Project.is_deleted.is_(False)).order_by(Project.updated_at.desc(), Project.id)
    return list(session.scalars(rows.offset(offset).limit(limit)))


def find(session: Session, key: ProjectKey) -> Project | None:
    """The project with this key, or None.

    A project whose creation time is not known, because its row is from an older version or from label-studio-ml,
    is found by its id, unless its address is another one. A request without creation time finds the project that
    was not deleted.

    Raises:
        ConflictError: the key fits several projects, or one that was created at another moment of the same second.
    """
    rows = session.scalars(
        select(Project).where(Project.label_studio_id == key.label_studio_id).order_by(Project.id)
    ).all()
    fitting = _fitting(rows, key)
    if len(fitting) > 1:
        ids = " and ".join(str(project.id) for project in fitting)
        raise ConflictError(f"{key} fits the projects {ids} here; nothing is done, since it may be either")
    return fitting[0] if fitting else None


def resolve(store: Store, key: ProjectKey) -> Project:
    """The project with this key, inserted if it is new. What the key says and the row lacks is stored.

    Raises:
        ConflictError: as `find`.
    """
    with store.look_up() as session:
        project = find(session, key)
    if project is not None and not _news(project, key):
        return project
    with store.write() as session:
        project = _find_or_insert(store, session, key)
        for name, value in _news(project, key).items():
            setattr(project, name, value)
        return project


def mark_replaced(store: Store, project: Project) -> list[Project]:
    """Mark other projects with this id at the same Label Studio as deleted, since it was reset. Their data stay.

    Only the address given to `lorabel connect` counts: many Label Studios call themselves http://localhost:8080.

    Returns:
        The projects that were marked.
    """
    replaced = select(Project).where(
        Project.label_studio_id == project.label_studio_id,
        Project.label_studio_url == project.label_studio_url,
        Project.id != project.id,
        Project.is_deleted.is_(False),
    )
    with store.write() as session:
        rows = list(session.scalars(replaced.with_for_update()))
        for row in rows:
            row.is_deleted = True
            log.warning("project %s is replaced by project %s", row.both_ids, project.both_ids)
    return rows


def ensure(store: Store, session: Session, project_id: int) -> Project:
    """Return a project's row, inserted if it is missing. Two requests may do this at the same time."""
    session.execute(_inserting(store), {"id": project_id})
    return session.get_one(Project, project_id)


def upsert(store: Store, project_id: int, **columns: Any) -> Project:
    """Update columns of a project's row, inserted if it is missing. Tokens are encrypted before they are stored.

    Where the row has these values already, it is only read: a read waits for no other transaction.
    """
    with store.look_up() as session:
        project = session.get(Project, project_id)
        if project is not None and all(_has(store, project, *column) for column in columns.items()):
            return project
    with store.write() as session:
        project = ensure(store, session, project_id)
        if "label_config" in columns:
            set_label_config(project, columns.pop("label_config"))
        for name, value in columns.items():
            if not _has(store, project, name, value):
                is_secret = name in TOKENS and bool(value)
                setattr(project, name, seal_token(store, session, value) if is_secret else value)
    return project


def seal_token(store: Store, session: Session, token: str) -> str:
    """Encrypt a token. Without the key of the others no new key is made, which would open none of them.

    Raises:
        SecretKeyError: the key is missing, or cannot be made.
    """
    if store.keyring.is_missing and session.scalar(select(exists().where(or_(*map(_is_sealed, TOKENS))))):
        store.keyring.require()
    return store.keyring.seal(token)


def _is_sealed(name: str) -> ColumnElement[bool]:
    return cast(ColumnElement[bool], getattr(Project, name).startswith(PREFIX))


def _has(store: Store, project: Project, name: str, value: Any) -> bool:
    """Whether a column has a value. Tokens are stored encrypted, each time differently."""
    stored = getattr(project, name)
    return store.keyring.fits(stored, value) if name in TOKENS else bool(stored == value)


def set_label_config(project: Project, label_config: str | None) -> None:
    """Set a project's label config, and remember which labels were renamed in it."""
    former, project.label_config = project.label_config, label_config
    if former is None or label_config is None or former == label_config:
        return
    try:
        before, after = parse(former), parse(label_config)
    except LabelConfigError as error:
        log.warning("project %d: whether labels were renamed is not known: %s", project.id, error)
        return
    renames = renamed_labels.find_renames(before, after)
    for tag, pairs in renames.items():
        for then, now in pairs:
            names = " / ".join(then), tag, " / ".join(now)
            log.info("project %d: label %r of %r was renamed to %r and keeps its annotations", project.id, *names)
    project.renamed_labels = dict(renamed_labels.add_renames(project.renamed_labels or {}, renames, after)) or None


def _fitting(rows: Sequence[Project], key: ProjectKey) -> list[Project]:
    """Those of the rows with the key's id that may be the key's project."""
    if key.created_at is None:
        of_address = [project for project in rows if not _contradicts(project, key)]
        return [project for project in of_address if not project.is_deleted] or of_address
    same, undated = [], []
    for project in rows:
        created_at = project.label_studio_created_at
        if created_at is None:
            undated.append(project)
        elif is_same_second(created_at, key.created_at):
            _check_same_moment(project, created_at, key, key.created_at)
            same.append(project)
    return same or [project for project in undated if not _contradicts(project, key)]


def _check_same_moment(project: Project, known: datetime, key: ProjectKey, told_at: datetime) -> None:
    """`/predict` tells only the second, so two projects of one second could not be told apart later."""
    if known.microsecond and told_at.microsecond and known != told_at:
        raise ConflictError(
            f"{key} has the id and was created in the same second as project {project.both_ids} here, and they "
            "cannot be told apart; create the project anew in one of the two Label Studios"
        )


def _contradicts(project: Project, key: ProjectKey) -> bool:
    """Whether the row is known to be of another Label Studio than the key's."""
    pairs = ((project.hostname, key.hostname), (project.label_studio_url, key.url))
    return any(row and address and row.rstrip("/") != address.rstrip("/") for row, address in pairs)


def _news(project: Project, key: ProjectKey) -> dict[str, Any]:
    """The columns that the key changes."""
    news: dict[str, Any] = {}
    known = project.label_studio_created_at
    if key.created_at is not None and (known is None or (key.created_at.microsecond and not known.microsecond)):
        news["label_studio_created_at"] = key.created_at
    if key.hostname and key.hostname != project.hostname:
        news["hostname"] = key.hostname
    if key.url and key.url != project.label_studio_url:
        news["label_studio_url"] = key.url
    return news


def _find_or_insert(store: Store, session: Session, key: ProjectKey) -> Project:
    """Transactions that insert the same project at the same time choose the same id, so that one of them finds the
    other's row: the id is chosen before the project is looked for."""
    while True:
        project_id = _free_id(session, key.label_studio_id)
        session.expire_all()
        project = find(session, key)
        if project is not None:
            return session.get_one(Project, project.id, with_for_update=True)
        row = {"id": project_id, "label_studio_id": key.label_studio_id, "label_studio_created_at": key.created_at}
        session.execute(_inserting(store), row)
        if project_id != key.label_studio_id:
            log.warning("%s is project %d here: another project has its number", key, project_id)


def _free_id(session: Session, label_studio_id: LabelStudioId) -> int:
    if session.scalar(select(Project.id).where(Project.id == label_studio_id)) is None:
        return label_studio_id
    highest = session.scalar(select(func.max(Project.id)).where(Project.id >= FIRST_OWN_ID))
    return FIRST_OWN_ID if highest is None else highest + 1


def _inserting(store: Store) -> Any:
    return store.insert(Project).on_conflict_do_nothing(index_elements=["id"])
