"""Gets the features that a head is fitted on: from the database, and what is missing from the model server.

The model server mostly remembers them, since the tasks were predicted a moment ago.
"""

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from time import monotonic

from pydantic import ValidationError
from pydantic_core import PydanticSerializationError

from lorabel.contracts import Input
from lorabel.database import task_features
from lorabel.database.tables import Project, now
from lorabel.errors import RedactionError, UnreadableError, cut
from lorabel.feature_contracts import Features
from lorabel.inference import requests
from lorabel.inference.messages import PredictRow, Priority
from lorabel.inference.requests import Output, PredictionCaller, Unreadable
from lorabel.problems.base import Problem
from lorabel.problems.task_questions import with_resolved_media
from lorabel.redaction import Redactor
from workers.annotated_tasks import AnnotatedTask, AnnotatedTasks
from workers.services import Services

log = logging.getLogger(__name__)

# Tasks of one request to the model server, and how long it may take. Then a head is fitted on what is there.
MOST_ASKED = 64
TIMEOUT_S = 10.0
# So few tasks go before bulk runs, behind people; more go behind both.
FEW = 8
LATE = "the time for one turn of computing features is up"


@dataclass(frozen=True)
class Collected:
    """The tasks of a control tag that have features, and those that lack them.

    Attributes:
        tasks: sorted by task id; each has an `example`. Their features are of one space. If the tasks go to
            several families, as rankings of texts and of pictures do, they are those of the largest part.
        missing: task id -> the task, for those whose features the model server has to compute.
        is_outdated: whether features in memory were of a base model of before. They are forgotten: collect again.
        chosen: ids of all tasks that the head is to learn from.
    """

    tasks: list[AnnotatedTask]
    missing: dict[int, AnnotatedTask]
    is_outdated: bool
    chosen: frozenset[int]

    @property
    def is_complete(self) -> bool:
        """Whether every task has features, or cannot be read."""
        return not (self.missing or self.is_outdated)

    @property
    def space(self) -> str:
        """The space of the features."""
        return self.tasks[0].space if self.tasks else ""


def collect_features(
    services: Services, project: Project, problem: Problem, annotated: AnnotatedTasks
) -> Collected:
    """Return the tasks of a control tag with the features that are in memory or in the database.

    Features say how long a recording is, so more tasks may be chosen once they are there.
    """
    most = services.settings.head_max_tasks
    collected = _collect(services, project, problem, annotated)
    while not collected.is_outdated and collected.chosen != annotated.chosen(problem, most).keys():
        collected = _collect(services, project, problem, annotated)
    return collected


def _collect(services: Services, project: Project, problem: Problem, annotated: AnnotatedTasks) -> Collected:
    tag = problem.from_name
    tasks = annotated.chosen(problem, services.settings.head_max_tasks)
    at = now()
    without = {
        task_id: task for task_id, task in tasks.items() if task.example is None and not task.is_unreadable(at)
    }
    with services.store.look_up() as session:
        rows = task_features.read(session, project.id, tag, list(without))
    usable = {
        task_id: without[task_id].with_row(row)
        for task_id, row in rows.items()
        if task_features.is_usable(row, without[task_id].digest, at)
    }
    spaces = _spaces(tasks | usable)
    known = {task_id: task for task_id, task in usable.items() if task.space in ("", *spaces)}
    annotated.keep(tag, known)
    with_features = {task_id: task for task_id, task in (tasks | known).items() if task.example is not None}
    outdated = [task_id for task_id, task in with_features.items() if task.space not in spaces]
    annotated.forget(tag, outdated)
    counts = Counter(task.space for task in with_features.values() if task.space in spaces)
    space = max(counts, key=lambda space: (counts[space], space), default="")
    return Collected(
        [task for task in with_features.values() if task.space == space],
        {task_id: task for task_id, task in without.items() if task_id not in known},
        is_outdated=bool(outdated),
        chosen=frozenset(tasks),
    )


def ask_for_features(
    services: Services, project: Project, from_name: str, adapter: str | None, missing: Mapping[int, AnnotatedTask]
) -> int:
    """Have the model server compute features of at most MOST_ASKED tasks, and write them to the database.

    Args:
        missing: task id -> the task, of one control tag.

    Returns:
        About how many tasks it answered.

    Raises:
        ModelServerError: it cannot be reached or failed.
    """
    # The newest first: what was annotated last was predicted last, so its features are still in memory.
    asked = sorted(missing, reverse=True)[:MOST_ASKED]
    answers = _ask(services, project, adapter, {task_id: missing[task_id].features_question for task_id in asked})
    digests = {task_id: task.digest for task_id, task in missing.items()}
    redactor = services.redactor
    if redactor.is_on:
        answers = {task_id: _masked(answer, redactor) for task_id, answer in answers.items()}
    task_features.write(services.store, project.id, from_name, digests, answers)
    return len(answers)


def _masked(answer: Features | str, redactor: Redactor) -> Features | str:
    """What the model server answered, with lines that it has read in pictures as REDACT says."""
    if isinstance(answer, str):
        return redactor.masked_message(answer)
    try:
        lines = [line.model_copy(update={"text": redactor.masked(line.text)}) for line in answer.lines]
    except RedactionError as error:
        return str(error)
    return answer.model_copy(update={"lines": tuple(lines)})


def _spaces(tasks: Mapping[int, AnnotatedTask]) -> set[str]:
    """The space of each family's newest features: the base model of a family may have been changed."""
    dated = sorted((task.written_at, task.space) for task in tasks.values() if task.written_at is not None)
    return set({space.partition(" ")[0]: space for _, space in dated}.values())


def _ask(
    services: Services, project: Project, adapter: str | None, questions: Mapping[int, Input | None]
) -> dict[int, Features | str]:
    """Task id -> the features, or why they cannot be computed. A task that there was no time for is missing.

    Args:
        questions: for the features.
    """
    resolve = services.authorizations.resolver(project, services.settings)
    rows: dict[int, PredictRow] = {}
    answers: dict[int, Features | str] = {}
    for task_id, question in questions.items():
        if question is None:
            continue
        try:
            resolved = with_resolved_media(question, resolve)
            resolved.model_dump_json()  # fails for half a surrogate pair, which no request can carry
        except (UnreadableError, PydanticSerializationError) as error:
            answers[task_id] = cut(str(error))
        else:
            rows[task_id] = PredictRow(kind=resolved.kind, input=resolved.model_dump(mode="json"), adapter=adapter)
    if not rows:
        return answers
    priority = Priority.BULK if len(rows) <= FEW else Priority.LOOKAHEAD
    caller = PredictionCaller(services.model_client, project.id, priority, monotonic() + TIMEOUT_S)
    outputs = requests.send(caller, list(rows.values()), LATE)
    for task_id, output in zip(rows, outputs, strict=True):
        if not (isinstance(output, Unreadable) and output.is_late):
            answers[task_id] = _features(output)
    return answers


def _features(output: Output | Unreadable) -> Features | str:
    if isinstance(output, Unreadable):
        return output.reason
    try:
        return Features.model_validate(output)
    except ValidationError as error:
        log.error("the model server's features make no sense: %s", error)
        return cut(f"the model server's features make no sense: {error}")
