"""What the job that forgets is told: encrypted, so that who can write to Redis cannot have projects deleted."""

import json

from lorabel.database.forgotten_events import Subject
from lorabel.errors import ForbiddenFormError
from lorabel.secret_keys import Keyring, is_sealed

KIND = "forget"


def seal(keyring: Keyring, project_id: int, subject: Subject, *, is_retraining: bool) -> str:
    """The argument of the job. Raises SecretKeyError if there is no key."""
    return keyring.seal(json.dumps([KIND, project_id, subject.task_id, subject.annotator_id, is_retraining]))


def unseal(keyring: Keyring, sealed: str) -> tuple[int, Subject, bool]:
    """The project, what is to be forgotten of it, and whether to train without it.

    Raises:
        ForbiddenFormError: this was not sealed here.
        SecretKeyError: it was sealed with another key.
    """
    text = keyring.open(sealed) if is_sealed(sealed) else ""
    try:
        kind, project_id, task_id, annotator_id, is_retraining = json.loads(text)
    except (ValueError, TypeError):
        kind = None
    if kind != KIND:
        raise ForbiddenFormError("a job that forgets was not sealed by a process of ours: it is not done")
    return project_id, Subject(task_id, annotator_id), is_retraining
