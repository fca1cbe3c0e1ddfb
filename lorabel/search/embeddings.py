"""Vectors of tasks in the space of the project's base model: computed by the model server, stored in the database.

Predictions compute these vectors anyway, and the model server remembers them for a while. Whoever predicts tasks
in the background stores what it remembers (`keep_recalled`); `lorabel/search/indexing.py` has the rest computed.
"""

import base64
import logging
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from lorabel.contracts import Content, Embedding, EmbedInput, Input, MediaRef, Modality
from lorabel.database import task_embeddings
from lorabel.database.store import Store
from lorabel.database.task_embeddings import TaskVector
from lorabel.errors import ConflictError, ModelServerError, UnreadableError
from lorabel.inference import requests
from lorabel.inference.messages import PredictRow
from lorabel.inference.requests import Output, PredictionCaller, Unreadable
from lorabel.labeling.label_config import RELATIONS
from lorabel.labeling.task_content import MODALITIES
from lorabel.problems.base import TaskData
from lorabel.problems.binding import BoundConfig
from lorabel.problems.task_questions import with_resolved_media
from lorabel.search.vector_index import VECTOR_DTYPE

log = logging.getLogger(__name__)

Resolve = Callable[[MediaRef], MediaRef]
LATE = "the time for embedding is up"


def question(bound: BoundConfig, data: TaskData, *, is_cache_only: bool = False) -> EmbedInput:
    """The question for one vector of everything in a task that the project's bindings read.

    Args:
        is_cache_only: whether the model server shall answer only from its memory and fetch no file.

    Raises:
        ConflictError: no control tag of the label config is served.
        UnreadableError: the data lacks what the bindings read.
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
    comparable_with = frozenset({Modality.TEXT}) | modalities(bound)
    return EmbedInput(contents=tuple(contents), comparable_with=comparable_with, is_cache_only=is_cache_only)


def modalities(bound: BoundConfig) -> frozenset[Modality]:
    """The modalities of all bindings. Questions are comparable with all of them, also where a task lacks one, so
    that the tasks of a project are in one space where that is possible."""
    served = {binding.from_name for binding in bound.bindings}
    controls = [
        control for control in bound.config.controls if control.name in served and control.tag != RELATIONS
    ]
    tags = (tag.tag for control in controls for tag in control.objects)
    return frozenset(MODALITIES[tag] for tag in tags if tag in MODALITIES)


def text_question(text: str, comparable_with: Collection[Modality]) -> EmbedInput:
    """The question for the vector of a text, to be compared with tasks of these modalities."""
    return EmbedInput(
        contents=(Content(modality=Modality.TEXT, text=text),), comparable_with=frozenset(comparable_with)
    )


def embed(caller: PredictionCaller, questions: Sequence[Input]) -> list[TaskVector | Unreadable]:
    """Have vectors computed by the base model.

    Returns:
        One vector or Unreadable per question, in order. After a failure, the remaining questions are late.

    Raises:
        ModelServerError: there is no answer at all.
    """
    rows = [PredictRow(kind=EmbedInput.kind, input=question.model_dump(mode="json")) for question in questions]
    return [_task_vector(answer) for answer in requests.send(caller, rows, LATE)]


def _task_vector(answer: Output | Unreadable) -> TaskVector | Unreadable:
    if isinstance(answer, Unreadable):
        return answer
    try:
        embedding = Embedding.model_validate(answer)
        return TaskVector(embedding.space, base64.b64decode(embedding.float16, validate=True))
    except (ValidationError, ValueError) as error:
        log.error("the model server's embedding makes no sense: %s", error)
        return Unreadable(str(error), is_permanent=False)


def keep(
    store: Store, caller: PredictionCaller, questions: Mapping[int, EmbedInput], resolve: Resolve
) -> dict[int, TaskVector | Unreadable]:
    """Embed tasks, and store their vectors.

    Args:
        questions: by task id.

    Returns:
        By task id its vector, or why there is none.

    Raises:
        ModelServerError: there is no answer at all.
    """
    resolved: dict[int, Input] = {}
    answers: dict[int, TaskVector | Unreadable] = {}
    for task_id, question_of_task in questions.items():
        try:
            resolved[task_id] = with_resolved_media(question_of_task, resolve)
        except UnreadableError as error:
            answers[task_id] = Unreadable(str(error), error.is_permanent)
    answers |= dict(zip(resolved, embed(caller, list(resolved.values())), strict=True))
    vectors = {task_id: answer for task_id, answer in answers.items() if isinstance(answer, TaskVector)}
    task_embeddings.write(store, caller.project_id, questions, vectors)
    return answers


def keep_recalled(
    store: Store, caller: PredictionCaller, bound: BoundConfig, tasks: Mapping[int, TaskData], resolve: Resolve
) -> None:
    """Store the vectors that the model server remembers of tasks that it has just predicted.

    Nobody waits for this, so no file is fetched for it, and failures are logged at level debug only.
    """
    questions: dict[int, EmbedInput] = {}
    for task_id, data in tasks.items():
        try:
            questions[task_id] = question(bound, data, is_cache_only=True)
        except UnreadableError as error:
            log.debug("task %d is not embedded: %s", task_id, error)
    try:
        keep(store, caller, questions, resolve)
    except ModelServerError as error:
        log.debug("project %d: %d tasks are not embedded: %s", caller.project_id, len(questions), error)


def embed_tasks(
    caller: PredictionCaller, bound: BoundConfig, tasks: Sequence[TaskData], resolve: Resolve
) -> list[TaskVector | None]:
    """Vectors of tasks with their spaces, per task, in order; None for a task that cannot be read. They are not
    stored.

    The tasks of a project may be in several spaces. For example, an item of a `<List>` may be a picture in one
    task and a text in another, and different families embed them.

    Raises:
        ConflictError: no control tag of the label config is served.
        ModelServerError: the model server failed, or the time is up.
    """
    questions = [_question(bound, data, resolve) for data in tasks]
    answers = iter(embed(caller, [question for question in questions if question is not None]))
    return [None if question is None else _readable(next(answers)) for question in questions]


def most_common_space(vectors: Sequence[TaskVector | None]) -> str | None:
    """The space of most of the vectors; the first of several equally common ones. None if there is no vector."""
    counts = Counter(vector.space for vector in vectors if vector is not None)
    return max(counts, key=counts.__getitem__, default=None)


def in_space(vectors: Sequence[TaskVector | None], space: str | None) -> list[NDArray[np.float32] | None]:
    """Each vector as (dim,), or None if it is in another space. How many those are is logged."""
    others = sum(vector is not None and vector.space != space for vector in vectors)
    if others:
        log.warning("%d of %d tasks are not compared: their vectors are not in %s", others, len(vectors), space)
    return [_array(vector) if vector is not None and vector.space == space else None for vector in vectors]


def _question(bound: BoundConfig, data: TaskData, resolve: Resolve) -> Input | None:
    try:
        return with_resolved_media(question(bound, data), resolve)
    except UnreadableError as error:
        log.debug("no vector: %s", error)
        return None


def _readable(answer: TaskVector | Unreadable) -> TaskVector | None:
    if isinstance(answer, TaskVector):
        return answer
    if answer.is_late:
        raise ModelServerError(answer.reason)
    return None


def _array(vector: TaskVector) -> NDArray[np.float32]:
    return np.frombuffer(vector.vector, VECTOR_DTYPE).astype(np.float32)
