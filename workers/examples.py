"""Annotations -> examples: which are new, which are replayed, which are held out for good."""

import hashlib
import random
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from lorabel.contracts import Input
from lorabel.database.tables import Annotation
from lorabel.errors import MissingTargetError, UnreadableError
from lorabel.families.base import Family, Fetch
from lorabel.labeling.label_config import LabelConfig
from lorabel.labeling.regions import Region
from lorabel.labeling.visible_when import shown_controls
from lorabel.problems.base import Problem, TaskData, question, with_media
from lorabel.settings import Settings

T = TypeVar("T")
FETCH_THREADS = 8


@dataclass(frozen=True)
class TrainingExample:
    """What one annotated task teaches about one control tag; `annotation_ids` of those that say so, by several
    people perhaps."""

    annotation_ids: tuple[int, ...]
    task_id: int
    question: Input
    target: Any
    label_class: Hashable
    is_new: bool


@dataclass(frozen=True)
class Example:
    """A lesson with its media read: `model_input` is what the family's `prepare` made of it."""

    lesson: TrainingExample
    model_input: Any

    @property
    def target(self) -> Any:
        return self.lesson.target


@dataclass(frozen=True)
class Plan:
    """What a run takes: `train` has the new lessons and the replayed ones. `skipped`: annotation id -> why."""

    train: list[TrainingExample]
    held_out: list[TrainingExample]
    skipped: dict[int, str]


def is_held_out(task_id: int, percent: int) -> bool:
    """By a hash of the task's id, so the answer never changes and needs no table."""
    digest = hashlib.blake2b(str(task_id).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % 100 < percent


def plan(
    problem: Problem, config: LabelConfig, annotations: Iterable[Annotation], settings: Settings, seed: int
) -> Plan:
    """Split a project's usable annotations. Of several on one task the ground truth counts, else what they agree
    on, with one voice for each annotator."""
    lessons, skipped = [], {}
    for voices in _by_task(annotations):
        targets = {}
        for annotation in voices:
            try:
                targets[annotation.id] = _target(problem, config, annotation)
            except (MissingTargetError, UnreadableError) as error:
                skipped[annotation.id] = str(error)
        heard = [annotation for annotation in voices if annotation.id in targets]
        try:
            lessons += [_lesson(problem, heard, list(targets.values()), settings)] if heard else []
        except UnreadableError as error:
            skipped |= {annotation.id: str(error) for annotation in heard}
    held_out = [lesson for lesson in lessons if is_held_out(lesson.task_id, settings.held_out_percent)]
    rest = [lesson for lesson in lessons if not is_held_out(lesson.task_id, settings.held_out_percent)]
    new = [lesson for lesson in rest if lesson.is_new]
    old = [lesson for lesson in rest if not lesson.is_new]
    replayed = balanced(old, lambda lesson: lesson.label_class, settings.replay_annotations, seed)
    return Plan(new + replayed, held_out, skipped)


def balanced(items: Sequence[T], class_of: Callable[[T], Hashable], most: int, seed: int) -> list[T]:
    """At most `most` items, taken from the classes in turn, at random within each."""
    classes: dict[Hashable, list[T]] = defaultdict(list)
    for item in items:
        classes[class_of(item)].append(item)
    dice = random.Random(seed)
    for members in classes.values():
        dice.shuffle(members)
    taken: list[T] = []
    while classes and len(taken) < most:
        for key in list(classes):
            taken.append(classes[key].pop())
            if not classes[key]:
                del classes[key]
    return taken[:most]


def read(
    lessons: Sequence[TrainingExample], family: Family, resolve: Callable[[Any], Any], fetch: Fetch
) -> tuple[list[Example], dict[int, str]]:
    """Fetch and prepare in threads. Returns the examples in order, and annotation id -> why not."""

    def prepare(lesson: TrainingExample) -> Example | str:
        try:
            return Example(lesson, family.prepare(with_media(lesson.question, resolve), fetch))
        except UnreadableError as error:
            return str(error)

    with ThreadPoolExecutor(FETCH_THREADS) as threads:
        found = list(threads.map(prepare, lessons))
    examples = [example for example in found if isinstance(example, Example)]
    unread = {
        annotation_id: reason
        for lesson, reason in zip(lessons, found, strict=True)
        if isinstance(reason, str)
        for annotation_id in lesson.annotation_ids
    }
    return examples, unread


def _by_task(annotations: Iterable[Annotation]) -> list[list[Annotation]]:
    """Who counts for each task, the newest last; the tasks in the order in which that one arrived."""
    tasks: dict[int, list[Annotation]] = defaultdict(list)
    for annotation in annotations:
        if annotation.task_id is not None:
            tasks[annotation.task_id].append(annotation)
    chosen = [_voices(found) for found in tasks.values()]
    return sorted(chosen, key=lambda voices: (voices[-1].received_at, voices[-1].id))


def _voices(annotations: list[Annotation]) -> list[Annotation]:
    """The newest ground truth alone, else the newest of each annotator."""
    newest_last = sorted(annotations, key=_rank)
    if newest_last[-1].ground_truth:
        return newest_last[-1:]
    return sorted({annotation.completed_by: annotation for annotation in newest_last}.values(), key=_rank)


def _rank(annotation: Annotation) -> tuple[bool, Any, int]:
    return annotation.ground_truth, annotation.updated_at, annotation.id


def _target(problem: Problem, config: LabelConfig, annotation: Annotation) -> Any:
    result = annotation.result or []
    answers: dict[str, list[Region]] = {control.name: [] for control in config.controls}
    for region in result:
        answers.get(region.get("from_name"), []).append(region)
    if problem.from_name not in shown_controls(config, answers):
        raise MissingTargetError(f"{problem.from_name!r} was not shown with these answers (visibleWhen)")
    return problem.target(result, _data(annotation))


def _lesson(problem: Problem, voices: list[Annotation], targets: list[Any], settings: Settings) -> TrainingExample:
    target = problem.agree(targets)
    newest = voices[-1]
    assert newest.task_id is not None
    return TrainingExample(
        tuple(annotation.id for annotation in voices),
        newest.task_id,
        question(problem, _data(newest), settings),
        target,
        problem.class_of(target),
        any(annotation.run_id is None for annotation in voices),
    )


def _data(annotation: Annotation) -> TaskData:
    if annotation.task_data is None:
        raise MissingTargetError("the event did not carry the task's data")
    return annotation.task_data
