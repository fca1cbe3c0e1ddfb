"""The secret of a project's webhook: `lorabel connect` makes it, Label Studio sends it, `POST /webhook` checks it.

The secret is in Label Studio only, as a header of the webhook. The database has a hash of it; a fast hash is
enough, since a secret has 256 random bits.

A new secret must not cost events, so it comes in three steps:
1. `announce`: events with the new secret are accepted, and those that were accepted before.
2. Label Studio gets the secret.
3. `enforce`: after OVERLAP, only events with the new secret are accepted. Label Studio reads the webhook first and
   sends afterwards, so events with the earlier header may still be on their way.
"""

import hmac
import secrets
from datetime import timedelta
from enum import StrEnum
from hashlib import sha256

from lorabel.database import projects
from lorabel.database.store import Store
from lorabel.database.tables import Project, now

HEADER = "Lorabel-Secret"
OVERLAP = timedelta(seconds=30)


class Refusal(StrEnum):
    """Why an event is refused."""

    WITHOUT_SECRET = "event without secret"
    WRONG_SECRET = "event with a wrong secret"
    PROJECT_WITHOUT_SECRET = "project without secret"


def generate() -> str:
    """A new secret."""
    return secrets.token_urlsafe(32)


def is_secret_of(project: Project, secret: str | None) -> bool:
    """Whether a secret is the project's newest one, whether or not events need it already."""
    return _has_hash(secret, project.secret_hash)


def find_refusal(project: Project | None, secret: str | None, *, is_required: bool) -> Refusal | None:
    """Why an event is refused; None if it is accepted.

    Args:
        project: the row of the project that the event names; None if there is none.
        secret: the event's header.
        is_required: whether events of projects without a secret are refused.
    """
    accepted_hashes = [] if project is None else [project.secret_hash]
    if project is not None and not is_enforced(project):
        accepted_hashes.append(project.earlier_secret_hash)
    if any(_has_hash(secret, accepted_hash) for accepted_hash in accepted_hashes):
        return None
    if project is None or None in accepted_hashes:
        return Refusal.PROJECT_WITHOUT_SECRET if is_required else None
    return Refusal.WITHOUT_SECRET if secret is None else Refusal.WRONG_SECRET


def is_enforced(project: Project) -> bool:
    """Whether events of the project need its newest secret now."""
    return project.secret_enforced_at is not None and project.secret_enforced_at <= now()


def announce(store: Store, project_id: int, secret: str) -> None:
    """Accept events with a new secret, besides those that are accepted now."""
    with store.write() as session:
        project = projects.get(session, project_id, is_locked=True)
        if project.secret_enforced_at is not None:
            project.earlier_secret_hash = project.secret_hash
        project.secret_hash = _hash(secret)
        project.secret_enforced_at = None


def enforce(store: Store, project_id: int, overlap: timedelta = OVERLAP) -> bool:
    """Refuse events without the newest secret from now + `overlap` on. Returns False if that was so already."""
    with store.write() as session:
        project = projects.get(session, project_id, is_locked=True)
        if project.secret_enforced_at is not None:
            return False
        project.secret_enforced_at = now() + overlap
        return True


def _has_hash(secret: str | None, expected: str | None) -> bool:
    """Whether a secret has this hash. The time of the comparison does not depend on where the hashes differ."""
    return secret is not None and expected is not None and hmac.compare_digest(_hash(secret), expected)


def _hash(secret: str) -> str:
    return sha256(secret.encode(errors="surrogatepass")).hexdigest()
