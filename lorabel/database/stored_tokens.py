"""The tokens of all projects, as they are stored: read to check the keys, and encrypted anew."""

from collections.abc import Iterator

from sqlalchemy import select
from sqlalchemy.orm import Session

from lorabel.database.projects import TOKENS
from lorabel.database.store import Store
from lorabel.database.tables import Project


def check(store: Store) -> int:
    """Decrypt every token. Returns how many there are.

    Raises:
        SecretKeyError: one was encrypted with another key.
    """
    with store.read() as session:
        return sum(1 for _ in _opened(store, session))


def seal_again(store: Store) -> int:
    """Encrypt every token with the first key. Returns how many there are.

    Raises:
        SecretKeyError: one was encrypted with another key; nothing was changed.
    """
    with store.write() as session:
        opened = list(_opened(store, session, is_locked=True))
        for project, name, token in opened:
            setattr(project, name, store.keyring.seal(token))
        return len(opened)


def _opened(store: Store, session: Session, *, is_locked: bool = False) -> Iterator[tuple[Project, str, str]]:
    rows = select(Project).order_by(Project.id)
    for project in session.scalars(rows.with_for_update() if is_locked else rows):
        for name in TOKENS:
            stored = getattr(project, name)
            if stored is not None:
                yield project, name, store.keyring.open(stored)
