"""Turns annotations into training examples: new ones, replayed old ones, and ones that are held out for good."""

import hashlib
import logging
import random
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from lorabel.contracts import Input
from lorabel.database.tables import Annotation
from lorabel.errors import LorabelError, MissingTargetError, storable
from lorabel.labeling.label_config import LabelConfig
from lorabel.labeling.regions import Region
from lorabel.labeling.renamed_labels import NO_RENAMES, Renames, with_current_names
from lorabel.labeling.visible_when import regions_shown_to, shown_controls
from lorabel.problems._answers import regions_of
from lorabel.problems.base import Problem, TaskData
from lorabel.problems.task_questions import build_input, with_resolved_media
from lorabel.settings import Settings

if TYPE_CHECKING:  # the light worker makes examples without torch
    from lorabel.families.base import Family, Fetch

log = logging.getLogger(__name__)

T = TypeVar("T")
FETCH_THREADS = 8
LONGEST_REASON = 500
UNUSED = (
    "nobody has marked anything with this control tag yet; so it is not known whether there is nothing to mark"
)
NO_TASK = "the event did not say which task was annotated"


@dataclass(frozen=True)
class TrainingExample:
    """One annotated task as an example for one control tag.

    Args:
        annotation_ids: the annotations that the target was made from, one for each annotator.
        question: what the model is asked; its media is not fetched yet.
        target: of the type that the problem defines.
        label_class: what examples are balanced by.
        is_new: whether no run has learned from one of the annotations yet.
        left_out: annotation id -> why parts of the annotation are not in the target.
    """

    annotation_ids: tuple[int, ...]
    task_id: int
    question: Input
    target: Any
    label_class: Hashable
    is_new: bool
    left_out: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class PreparedExample:
    """A training example whose media is read: `model_input` is what the family's `prepare` returned."""

    training_example: TrainingExample
    model_input: Any

    @property
    def target(self) -> Any:
        return self.training_example.target


@dataclass(frozen=True)
class TrainingPlan:
    """What a run learns from and is tested on.

    Args:
        train: all new examples, then the replayed ones.
        held_out: the examples that no run ever trains on.
        skipped: annotation id -> why the annotation cannot be used.
        left_out: annotation id -> why parts of the annotation cannot be used; the rest is.
        is_partial: whether a limit of memory has left out tasks: which ones there are depends on the others.
    """

    train: list[TrainingExample]
    held_out: list[TrainingExample]
    skipped: dict[int, str]
    left_out: dict[int, str]
    is_partial: bool = False


def is_held_out(task_id: int, percent: int) -> bool:
    """Whether a task is held out. Depends on a hash of its id alone, so the answer never changes."""
    digest = hashlib.blake2b(str(task_id).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % 100 < percent


def make_plan(
    problem: Problem,
    config: LabelConfig,
    annotations: Iterable[Annotation],
    settings: Settings,
    seed: int,
    renames: Renames = NO_RENAMES,
) -> TrainingPlan:
    """Split a project's usable annotations into examples to train on and examples held out.

    If a task has several annotations, the newest ground truth counts; without ground truth the annotators' targets
    are aggregated, one annotation for each annotator. An annotation that cannot be used, for whatever reason, is
    skipped. So are all if the control tag is not used, see `Problem.may_be_unused`.
    """
    examples, skipped = make_examples(problem, config, annotations, settings, renames)
    if examples and all(problem.may_be_unused(example.target) for example in examples):
        skipped |= {id_: UNUSED for example in examples for id_ in example.annotation_ids}
        examples = []
    left_out = {id_: reason for example in examples for id_, reason in example.left_out.items()}
    held_out = [example for example in examples if is_held_out(example.task_id, settings.held_out_percent)]
    others = [example for example in examples if not is_held_out(example.task_id, settings.held_out_percent)]
    new = [example for example in others if example.is_new]
    old = [example for example in others if not example.is_new]
    replayed = sample_balanced(old, lambda example: example.label_class, settings.replay_annotations, seed)
    return TrainingPlan(new + replayed, held_out, skipped, left_out)


def make_examples(
    problem: Problem,
    config: LabelConfig,
    annotations: Iterable[Annotation],
    settings: Settings,
    renames: Renames = NO_RENAMES,
) -> tuple[list[TrainingExample], dict[int, str]]:
    """One example per task that has a usable annotation, by when the newest annotation of the task arrived.

    Which annotations of a task count is said in `make_plan`.

    Args:
        renames: labels of former label configs, by whose names annotations may call them.

    Returns:
        The examples, and annotation id -> why the annotation cannot be used.
    """
    annotations = list(annotations)
    examples: list[TrainingExample] = []
    skipped = {annotation.id: NO_TASK for annotation in annotations if annotation.task_id is None}
    for task_annotations in _counting_annotations_by_task(annotations):
        example, reasons = _example_of_task(problem, config, task_annotations, settings, renames)
        examples += [] if example is None else [example]
        skipped |= reasons
    return examples, skipped


def sample_balanced(items: Sequence[T], class_of: Callable[[T], Hashable], most: int, seed: int) -> list[T]:
    """At most `most` items, taken from the classes in turn, at random within each class."""
    classes: dict[Hashable, list[T]] = defaultdict(list)
    for item in items:
        classes[class_of(item)].append(item)
    generator = random.Random(seed)
    for members in classes.values():
        generator.shuffle(members)
    sample: list[T] = []
    while classes and len(sample) < most:
        for label_class in list(classes):
            sample.append(classes[label_class].pop())
            if not classes[label_class]:
                del classes[label_class]
    return sample[:most]


def prepare(
    examples: Sequence[TrainingExample], family: "Family", resolve: Callable[[Any], Any], fetch: "Fetch"
) -> tuple[list[PreparedExample], dict[int, str]]:
    """Fetch and prepare the examples in threads.

    Args:
        resolve: media reference -> the reference to fetch it by.

    Returns:
        The readable examples in order, and annotation id -> reason for the annotations of the others. A file that
        cannot be fetched or decoded, whatever the exception, never stops the others.
    """

    def prepare_example(example: TrainingExample) -> PreparedExample | str:
        try:
            question = with_resolved_media(example.question, resolve)
            return PreparedExample(example, family.prepare(question, fetch))
        except Exception as error:  # noqa: BLE001 - broken files make decoders raise anything
            return _reason(error, example.annotation_ids)

    with ThreadPoolExecutor(FETCH_THREADS) as threads:
        prepared_or_reasons = list(threads.map(prepare_example, examples))
    prepared = [example for example in prepared_or_reasons if isinstance(example, PreparedExample)]
    unreadable = {
        annotation_id: reason
        for example, reason in zip(examples, prepared_or_reasons, strict=True)
        if isinstance(reason, str)
        for annotation_id in example.annotation_ids
    }
    return prepared, unreadable


def _counting_annotations_by_task(annotations: Iterable[Annotation]) -> list[list[Annotation]]:
    """For each task the annotations that count, newest last. Tasks are sorted by when their newest one arrived."""
    by_task: dict[int, list[Annotation]] = defaultdict(list)
    for annotation in annotations:
        if annotation.task_id is not None:
            by_task[annotation.task_id].append(annotation)
    counting = [_counting_annotations(task_annotations) for task_annotations in by_task.values()]
    return sorted(
        counting, key=lambda task_annotations: (task_annotations[-1].received_at, task_annotations[-1].id)
    )


def _counting_annotations(annotations: list[Annotation]) -> list[Annotation]:
    """The newest ground truth alone; without ground truth the newest annotation of each annotator, newest last."""
    newest_last = sorted(annotations, key=_rank)
    if newest_last[-1].ground_truth:
        return newest_last[-1:]
    return sorted({annotation.completed_by: annotation for annotation in newest_last}.values(), key=_rank)


def _rank(annotation: Annotation) -> tuple[bool, Any, int]:
    return annotation.ground_truth, annotation.updated_at, annotation.id


def _example_of_task(
    problem: Problem, config: LabelConfig, annotations: list[Annotation], settings: Settings, renames: Renames
) -> tuple[TrainingExample | None, dict[int, str]]:
    """The example that a task's annotations make, and annotation id -> reason for those that are skipped.

    All annotations are read with the newest data of the task, since the question is about that.

    Args:
        annotations: newest last.
    """
    all_data = [annotation.task_data for annotation in annotations if annotation.task_data is not None]
    targets: dict[int, Any] = {}
    skipped: dict[int, str] = {}
    for annotation in annotations:
        try:
            targets[annotation.id] = _target(problem, config, annotation, _newest(all_data), renames)
        except Exception as error:  # noqa: BLE001 - nobody has checked what an annotation holds
            skipped[annotation.id] = _reason(error, [annotation.id])
    usable = [annotation for annotation in annotations if annotation.id in targets]
    if not usable:
        return None, skipped
    try:
        example = _training_example(problem, usable, targets, _newest(all_data), settings)
    except Exception as error:  # noqa: BLE001 - nobody has checked what a task's data holds
        reason = _reason(error, targets)
        return None, skipped | dict.fromkeys(targets, reason)
    return example, skipped


def _reason(error: Exception, annotation_ids: Iterable[int]) -> str:
    """Why annotations are skipped, as a text that every database stores. Unexpected exceptions go to the log."""
    reason = str(error)
    if not isinstance(error, LorabelError):
        log.warning("annotations %s are skipped", list(annotation_ids), exc_info=error)
        reason = f"{type(error).__name__}: {error}"
    return storable(reason)[:LONGEST_REASON]


def _target(
    problem: Problem, config: LabelConfig, annotation: Annotation, data: TaskData, renames: Renames
) -> Any:
    """The problem's target.

    Raises:
        MissingTargetError: the annotation does not answer the control tag.
        UnreadableError: the task's data lacks what the control tag is about.
    """
    regions = with_current_names(regions_of(annotation.result), renames)
    if problem.is_per_region:
        return problem.target(regions_shown_to(config, problem.from_name, regions), data)
    regions_by_control: dict[str, list[Region]] = {control.name: [] for control in config.controls}
    for region in regions:
        regions_by_control.get(region.get("from_name", ""), []).append(region)
    if problem.from_name not in shown_controls(config, regions_by_control):
        raise MissingTargetError(f"{problem.from_name!r} was not shown with these answers (visibleWhen)")
    return problem.target(regions, data)


def _training_example(
    problem: Problem, annotations: list[Annotation], targets: Mapping[int, Any], data: TaskData, settings: Settings
) -> TrainingExample:
    target = problem.aggregate(list(targets.values()))
    newest = annotations[-1]
    assert newest.task_id is not None
    return TrainingExample(
        tuple(annotation.id for annotation in annotations),
        newest.task_id,
        problem.asked_for(build_input(problem, data, settings), target),
        target,
        problem.class_of(target),
        any(annotation.run_id is None for annotation in annotations),
        {
            annotation_id: storable("; ".join(reasons))[:LONGEST_REASON]
            for annotation_id, target in targets.items()
            if (reasons := problem.left_out(target))
        },
    )


def _newest(all_data: list[TaskData]) -> TaskData:
    if not all_data:
        raise MissingTargetError("the event did not carry the task's data")
    return all_data[-1]
