"""What the job that forgets is told: encrypted, so that who can write to Redis cannot have projects deleted.

Nor can who has copied such a job from Redis: it is done once, within a day, and only with the project that was
meant, not with another one that has got its id since.
"""

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256

from lorabel.database import connecting_files
from lorabel.database.forgotten_events import Subject
from lorabel.database.store import Store
from lorabel.database.tables import Project, now
from lorabel.errors import ForbiddenFormError
from lorabel.private_folders import make_private
from lorabel.secret_keys import Keyring, is_sealed
from lorabel.settings import Settings

KIND = "forget"
FOLDER = "forget_requests"
VALID_FOR = timedelta(days=1)
FOREIGN = "a job that forgets was not sealed by a process of ours: it is not done"


@dataclass(frozen=True)
class ForgetRequest:
    """What is to be forgotten.

    Attributes:
        is_retraining: whether to train without it.
        created_at: when the project's row was made; None if only files were left of the project.
        asked_at: when somebody has asked.
    """

    project_id: int
    subject: Subject
    is_retraining: bool
    created_at: datetime | None
    asked_at: datetime


def ask(store: Store, project_id: int, subject: Subject, *, is_retraining: bool) -> str:
    """The argument of the job, sealed. Raises SecretKeyError if there is no key."""
    request = ForgetRequest(project_id, subject, is_retraining, _created_at(store, project_id), now())
    return seal(store.keyring, request)


def seal(keyring: Keyring, request: ForgetRequest) -> str:
    """Encrypt a request. Raises SecretKeyError if there is no key."""
    created_at = None if request.created_at is None else request.created_at.isoformat()
    subject = request.subject.task_id, request.subject.annotator_id
    parts = [KIND, request.project_id, *subject, request.is_retraining, created_at, request.asked_at.isoformat()]
    return keyring.seal(json.dumps(parts))


def unseal(keyring: Keyring, sealed: str) -> ForgetRequest:
    """The request.

    Raises:
        ForbiddenFormError: this was not sealed here.
        SecretKeyError: it was sealed with another key.
    """
    text = keyring.open(sealed) if is_sealed(sealed) else ""
    try:
        kind, project_id, task_id, annotator_id, is_retraining, created_at, asked_at = json.loads(text)
        times = (
            None if created_at is None else datetime.fromisoformat(created_at),
            datetime.fromisoformat(asked_at),
        )
    except (ValueError, TypeError) as error:
        raise ForbiddenFormError(FOREIGN) from error
    if kind != KIND:
        raise ForbiddenFormError(FOREIGN)
    return ForgetRequest(project_id, Subject(task_id, annotator_id), is_retraining, *times)


def take(settings: Settings, store: Store, sealed: str) -> ForgetRequest:
    """The request, if it is to be done: another call with the same argument is refused.

    Raises:
        ForbiddenFormError: this was not sealed here; or it is old, meant another project, or was taken before.
        SecretKeyError: it was sealed with another key.
    """
    request = unseal(store.keyring, sealed)
    reason = None
    if now() - request.asked_at > VALID_FOR:
        reason = f"it was asked for at {request.asked_at:%Y-%m-%d %H:%M} UTC, and is too old"
    elif _created_at(store, request.project_id) not in (None, request.created_at):
        reason = "the project was connected anew since"
    elif not _is_first(settings, sealed):
        reason = "it was done before"
    if reason is not None:
        raise ForbiddenFormError(f"project {request.project_id}: nothing is forgotten by this job: {reason}")
    return request


def _created_at(store: Store, project_id: int) -> datetime | None:
    with store.read() as session:
        project = session.get(Project, project_id)
        return None if project is None else project.created_at


def _is_first(settings: Settings, sealed: str) -> bool:
    """Note the request by its digest, before the work begins: what fails has to be asked for again."""
    folder = settings.data_dir.absolute() / FOLDER
    make_private(folder)
    connecting_files.remove_older(folder, 2 * VALID_FOR.total_seconds())
    try:
        (folder / sha256(sealed.encode()).hexdigest()).touch(mode=0o600, exist_ok=False)
    except FileExistsError:
        return False
    return True
