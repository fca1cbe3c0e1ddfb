"""Gets the features that a head is fitted on: from the database, and what is missing from the model server.

The model server mostly remembers them, since the tasks were predicted a moment ago.
"""

import logging
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from time import monotonic

from pydantic import ValidationError

from lorabel.contracts import LabelsInput, RankingInput, RatingInput
from lorabel.database import task_features
from lorabel.database.tables import Project, TaskFeatures, now
from lorabel.errors import UnreadableError, cut
from lorabel.feature_contracts import Features, FeaturesInput
from lorabel.inference import requests
from lorabel.inference.messages import PredictRow, Priority
from lorabel.inference.requests import Output, PredictionCaller, Unreadable
from lorabel.problems.base import with_resolved_media
from workers.examples import TrainingExample
from workers.services import Services

log = logging.getLogger(__name__)

HEADED = (LabelsInput, RatingInput, RankingInput)
# Tasks of which the model server is asked in one turn, and for how long: then other projects have theirs.
MOST_ASKED = 64
TIMEOUT_S = 10.0
# So few tasks go before bulk runs, behind people; more go behind both.
FEW = 8
LATE = "the time for one turn of computing features is up"


@dataclass(frozen=True)
class Collection:
    """What features are wanted of.

    Args:
        examples: the annotated tasks of a control tag.
        adapter: the adapter whose features are wanted, beside the base model's; None for the base model alone.
    """

    project: Project
    from_name: str
    examples: Sequence[TrainingExample]
    adapter: str | None = None


@dataclass(frozen=True)
class Collected:
    """The examples that have features, by task id.

    Attributes:
        space: of the features.
        labels: digest of the labels that all questions of the examples have.
        is_complete: whether every task has features, or cannot be read.
        computed: how many tasks the model server has just answered about.
    """

    examples: list[tuple[TrainingExample, TaskFeatures]]
    space: str
    labels: str
    is_complete: bool
    computed: int


def collect_features(services: Services, collection: Collection) -> Collected:
    """Return the examples with their features; at most MOST_ASKED of those that are missing are computed now.

    Raises:
        ModelServerError: some are missing, and the model server cannot be reached or failed.
    """
    examples, labels = _choose(collection.examples, services.settings.head_max_tasks)
    digests = {
        task_id: task_features.question_digest(FeaturesInput.of(example.question), collection.adapter)
        for task_id, example in examples.items()
    }
    project_id, tag = collection.project.id, collection.from_name
    with services.store.read() as session:
        rows = task_features.read(session, project_id, tag, list(examples))
    at = now()
    rows = {task_id: row for task_id, row in rows.items() if task_features.is_usable(row, digests[task_id], at)}
    space = _space(rows)
    missing = [task_id for task_id in examples if task_id not in rows or rows[task_id].space not in ("", space)]
    # The newest first: what was annotated last was predicted last, so its features are still in memory.
    asked = sorted(missing, reverse=True)[:MOST_ASKED]
    answers = _ask(services, collection, {task_id: examples[task_id] for task_id in asked})
    written = task_features.write(services.store, project_id, tag, digests, answers)
    rows |= {row.task_id: row for row in written}
    space = _space(rows)
    of_space = {task_id: row for task_id, row in rows.items() if row.reason is None and row.space == space}
    others = [row for row in rows.values() if row.reason is None and row.space != space]
    return Collected(
        [(example, of_space[task_id]) for task_id, example in sorted(examples.items()) if task_id in of_space],
        space,
        labels,
        is_complete=not others and len(rows) == len(examples),
        computed=len(answers),
    )


def _choose(examples: Sequence[TrainingExample], most: int) -> tuple[dict[int, TrainingExample], str]:
    """The examples that a head can learn from, by task id, and the digest of their labels.

    A head answers one question. Where tasks bring labels of their own, it is the one that most of them ask. If
    there are too many examples, the newest are taken from the classes in turn.
    """
    headed = [example for example in examples if isinstance(example.question, HEADED)]
    if not headed:
        return {}, ""
    digests = [task_features.labels_digest(FeaturesInput.of(example.question)) for example in headed]
    counts = Counter(digests)
    labels = min(counts, key=lambda value: (-counts[value], value))
    same = [example for example, value in zip(headed, digests, strict=True) if value == labels]
    return {example.task_id: example for example in _newest_balanced(same, most)}, labels


def _newest_balanced(examples: Sequence[TrainingExample], most: int) -> list[TrainingExample]:
    """At most `most` examples: of each class in turn the newest, by the ids that Label Studio has counted up."""
    if len(examples) <= most:
        return list(examples)
    classes: dict[Hashable, list[TrainingExample]] = defaultdict(list)
    for example in sorted(examples, key=lambda example: (max(example.annotation_ids), example.task_id)):
        classes[example.label_class].append(example)
    chosen: list[TrainingExample] = []
    while len(chosen) < most:
        for members in list(classes.values()):
            if members:
                chosen.append(members.pop())
    return chosen[:most]


def _space(rows: dict[int, TaskFeatures]) -> str:
    """The space of the newest features: the base model may have been changed."""
    with_features = [row for row in rows.values() if row.reason is None]
    return max(with_features, key=lambda row: (row.written_at, row.space)).space if with_features else ""


def _ask(
    services: Services, collection: Collection, examples: dict[int, TrainingExample]
) -> dict[int, Features | str]:
    """Task id -> the features, or why they cannot be computed. A task that there was no time for is missing."""
    project = collection.project
    resolve = services.authorizations.resolver(project, services.settings)
    rows: dict[int, PredictRow] = {}
    answers: dict[int, Features | str] = {}
    for task_id, example in examples.items():
        try:
            question = with_resolved_media(FeaturesInput.of(example.question), resolve)
        except UnreadableError as error:
            answers[task_id] = cut(str(error))
        else:
            rows[task_id] = PredictRow(
                kind=question.kind, input=question.model_dump(mode="json"), adapter=collection.adapter
            )
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
