"""Tasks -> vectors of what they show, by the base model: for whoever compares tasks with each other."""

import logging
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lorabel import embeddings
from lorabel.contracts import Input
from lorabel.embedding_rows import Place
from lorabel.embeddings import Resolve
from lorabel.errors import ModelServerError, UnreadableError
from lorabel.problems import BoundConfig, TaskData, with_media
from lorabel.questions import Asker, Unread
from lorabel.vectors import ON_THE_WIRE

log = logging.getLogger(__name__)


def task_vectors(
    asker: Asker, bound: BoundConfig, tasks: Sequence[TaskData], resolve: Resolve
) -> list[NDArray[np.float32] | None]:
    """One of length 1 per task, in order; None of a task that cannot be read.

    Raises:
        ConflictError: no control tag of the label config is served.
        ModelServerError: it failed, or the time is up.
    """
    asked = [_question(bound, data, resolve) for data in tasks]
    found = iter(embeddings.embed(asker, [one for one in asked if one is not None]))
    return [None if one is None else _vector(next(found)) for one in asked]


def _question(bound: BoundConfig, data: TaskData, resolve: Resolve) -> Input | None:
    try:
        return with_media(embeddings.question(bound, data), resolve)
    except UnreadableError as error:
        log.debug("no vector: %s", error)
        return None


def _vector(found: Place | Unread) -> NDArray[np.float32] | None:
    if isinstance(found, Place):
        return np.frombuffer(found.vector, ON_THE_WIRE).astype(np.float32)
    if found.is_late:
        raise ModelServerError(found.reason)
    return None
