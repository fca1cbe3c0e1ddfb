"""Where tasks lie in the space of their base model: asked of the model server, kept in the database.

Predictions compute these vectors anyway, and the model server remembers them for a while: whoever predicts tasks
that nobody waits for asks for what it remembers (`keep_recalled`). `lorabel/search/indexing.py` has
the rest computed.
"""

import base64
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from time import monotonic

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from lorabel.contracts import Content, Embedding, EmbedInput, Input, MediaRef, Modality
from lorabel.database import task_embeddings
from lorabel.database.store import Store
from lorabel.database.task_embeddings import TaskVector
from lorabel.errors import ConflictError, ModelServerError, UnreadableError
from lorabel.inference.messages import PredictRow, RowResult
from lorabel.inference.requests import LEAST_TIME_S, ROWS_PER_REQUEST, PredictionCaller, Unreadable
from lorabel.labeling.task_content import MODALITIES
from lorabel.problems.base import TaskData, with_media
from lorabel.problems.binding import BoundConfig
from lorabel.search.vector_index import ON_THE_WIRE

log = logging.getLogger(__name__)

Resolve = Callable[[MediaRef], MediaRef]


def question(bound: BoundConfig, data: TaskData, *, is_only_recalled: bool = False) -> EmbedInput:
    """About everything in a task that one of the project's bindings reads.

    Raises:
        ConflictError: there is no binding.
        UnreadableError: the data lacks it.
    """
    if not bound.bindings:
        raise ConflictError("no control tag of the label config is served, so there is nothing to search in")
    contents: dict[Content, None] = {}
    reason: UnreadableError | None = None
    for binding in bound.bindings:
        try:
            contents |= dict.fromkeys(binding.model_input(data).contents)
        except UnreadableError as error:
            reason = error
    if not contents:
        raise reason or UnreadableError("the task shows nothing that can be embedded", is_permanent=True)
    among = frozenset({Modality.TEXT}) | _modalities(bound)
    return EmbedInput(contents=tuple(contents), among=among, is_only_recalled=is_only_recalled)


def _modalities(bound: BoundConfig) -> frozenset[Modality]:
    """Of all that the bindings are about, also where a task lacks some of it: a project has one space."""
    served = {binding.from_name for binding in bound.bindings}
    tags = (tag.tag for control in bound.config.controls if control.name in served for tag in control.objects)
    return frozenset(MODALITIES[tag] for tag in tags if tag in MODALITIES)


def text_question(text: str, modalities: Collection[Modality]) -> EmbedInput:
    """About a text, to be compared with tasks of these modalities."""
    return EmbedInput(contents=(Content(modality=Modality.TEXT, text=text),), among=frozenset(modalities))


def embed(caller: PredictionCaller, questions: Sequence[Input]) -> list[TaskVector | Unreadable]:
    """One per question, in order, by the base model.

    Raises:
        ModelServerError: nothing at all could be asked. A failure later on leaves the rest unread and late.
    """
    found: list[TaskVector | Unreadable] = []
    for start in range(0, len(questions), ROWS_PER_REQUEST):
        piece = questions[start : start + ROWS_PER_REQUEST]
        rows = [PredictRow(kind=EmbedInput.kind, input=one.model_dump(mode="json")) for one in piece]
        timeout_s = caller.deadline - monotonic()
        try:
            if timeout_s < LEAST_TIME_S:
                raise ModelServerError("the time for embedding is up")
            results = caller.client.predict(rows, timeout_s, caller.project_id, caller.priority, caller.is_gone)
        except ModelServerError as error:
            if not found:
                raise
            log.warning("%d of %d tasks are not embedded: %s", len(questions) - start, len(questions), error)
            return [*found, *[Unreadable(str(error), False, is_late=True)] * (len(questions) - start)]
        is_late = monotonic() >= caller.deadline
        found += [_read(result, is_late) for result in results]
    return found


def _read(result: RowResult, is_late: bool) -> TaskVector | Unreadable:
    if result.error is not None:
        is_permanent = result.error.is_permanent
        return Unreadable(result.error.reason, is_permanent, is_late and not is_permanent)
    try:
        answer = Embedding.model_validate(result.output)
        return TaskVector(answer.space, base64.b64decode(answer.float16, validate=True))
    except (ValidationError, ValueError) as error:
        log.error("the model server's embedding makes no sense: %s", error)
        return Unreadable(str(error), is_permanent=False)


def keep(
    store: Store, caller: PredictionCaller, asked: Mapping[int, EmbedInput], resolve: Resolve
) -> dict[int, TaskVector | Unreadable]:
    """Embed tasks by id, and store what was found.

    Raises:
        ModelServerError: nothing at all could be asked.
    """
    resolved: dict[int, Input] = {}
    found: dict[int, TaskVector | Unreadable] = {}
    for task_id, one in asked.items():
        try:
            resolved[task_id] = with_media(one, resolve)
        except UnreadableError as error:
            found[task_id] = Unreadable(str(error), error.is_permanent)
    found |= dict(zip(resolved, embed(caller, list(resolved.values())), strict=True))
    places = {task_id: one for task_id, one in found.items() if isinstance(one, TaskVector)}
    task_embeddings.write(store, caller.project_id, asked, places)
    return found


def keep_recalled(
    store: Store, caller: PredictionCaller, bound: BoundConfig, tasks: Mapping[int, TaskData], resolve: Resolve
) -> None:
    """Store what the model server remembers of tasks that it has just predicted. Nobody waits for it: failures are
    silent, and no file is fetched for it."""
    asked: dict[int, EmbedInput] = {}
    for task_id, data in tasks.items():
        try:
            asked[task_id] = question(bound, data, is_only_recalled=True)
        except UnreadableError as error:
            log.debug("task %d is not embedded: %s", task_id, error)
    try:
        keep(store, caller, asked, resolve)
    except ModelServerError as error:
        log.debug("project %d: %d tasks are not embedded: %s", caller.project_id, len(asked), error)


def task_vectors(
    caller: PredictionCaller, bound: BoundConfig, tasks: Sequence[TaskData], resolve: Resolve
) -> list[NDArray[np.float32] | None]:
    """One of length 1 per task, in order; None of a task that cannot be read.

    Raises:
        ConflictError: no control tag of the label config is served.
        ModelServerError: it failed, or the time is up.
    """
    asked = [_question(bound, data, resolve) for data in tasks]
    found = iter(embed(caller, [one for one in asked if one is not None]))
    return [None if one is None else _vector(next(found)) for one in asked]


def _question(bound: BoundConfig, data: TaskData, resolve: Resolve) -> Input | None:
    try:
        return with_media(question(bound, data), resolve)
    except UnreadableError as error:
        log.debug("no vector: %s", error)
        return None


def _vector(found: TaskVector | Unreadable) -> NDArray[np.float32] | None:
    if isinstance(found, TaskVector):
        return np.frombuffer(found.vector, ON_THE_WIRE).astype(np.float32)
    if found.is_late:
        raise ModelServerError(found.reason)
    return None
