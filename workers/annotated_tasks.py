"""The annotated tasks of a project as a head learns from them, kept in memory from one fit to the next.

After an annotation only its task is read and parsed anew. In a project with 2000 annotated tasks this makes a fit
several times as fast.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from math import ceil

from sqlalchemy import Select, or_, select
from sqlalchemy.orm import Session

from lorabel.contracts import Content, Input, SpansInput
from lorabel.database import project_heads, task_features
from lorabel.database.store import id_chunks
from lorabel.database.tables import Annotation, Project, TaskFeatures
from lorabel.families.encoders.heads.fit import Example
from lorabel.families.segments.windows import count_windows
from lorabel.families.series.windows import MOST_LEARNED, feature_count
from lorabel.feature_contracts import HEADED, FeaturesInput
from lorabel.labeling.words import find_words
from lorabel.mask_contracts import LabelledMasksInput
from lorabel.problems.base import Problem
from lorabel.problems.binding import BoundConfig
from lorabel.region_contracts import EachInput
from lorabel.relation_contracts import PictureRelationsInput, RelationsInput
from lorabel.series_contracts import SeriesInput
from lorabel.settings import Settings
from lorabel.space_contracts import BoxesInput, TextLinesInput
from lorabel.time_contracts import SegmentsInput, SegmentTarget
from lorabel.track_contracts import TracksInput
from workers.examples import TrainingExample, make_examples

# Kinds of questions with many rows of features in each task.
MANY_ROWS: tuple[type[Input], ...] = (SpansInput, TextLinesInput, BoxesInput, LabelledMasksInput, SegmentsInput)
MANY_ROWS += (SeriesInput, TracksInput, RelationsInput, PictureRelationsInput)
# Those about spans of a text.
IN_TEXTS = (SpansInput, RelationsInput)
# Annotations that are read for each task that a head may learn from: a task may have several annotators.
ANNOTATIONS_PER_TASK = 2
# Most texts, pictures, sounds or videos that a head for spans, lines, boxes or segments learns from, and most
# words of all texts: each word has features of some kB. Without the limit of words, a hundred texts of 1000 words
# would take gigabytes, and minutes after each annotation.
MOST_TEXTS = 300
MOST_WORDS = 10_000
# Most windows of all sounds, videos or series that are in memory for a head for segments. Each has about USUAL_DIM
# features, 2 kB; those of series have fewer, and count as parts of a window.
MOST_WINDOWS, USUAL_DIM = 20_000, 512

# Most contents that are asked about by themselves, such as regions of pictures, and that a head learns from. With
# more, a fit after each annotation would take seconds.
MOST_CONTENTS = 4000

# Of a task in memory, without its features; of a line of text in its picture.
BYTES_PER_TASK, BYTES_PER_LINE = 2000, 500

# The usable annotations of a task: the id of each, and how many states of it were applied.
State = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class AnnotatedTask:
    """A task as an example for one control tag.

    Args:
        state: of the annotations that it was made from.
        annotation_ids: of those that count; empty if none can be used.
        question: what the model is asked; None if no annotation can be used, or once there are features.
        digest: of the question for the features.
        labels: digest of the labels of that question.
        target: what the annotators answered.
        label_class: what tasks are balanced by.
        space: of the features; empty without features.
        written_at: when the features were computed; None without features.
        unreadable_at: when the model server could not read it; None if it could, or was not asked.
        example: the features and the target; None without features.
        most_windows: the most windows whose features the task may have, see `_count_windows`.
    """

    state: State
    annotation_ids: tuple[int, ...] = ()
    question: Input | None = None
    digest: str = ""
    labels: str = ""
    target: object = None
    label_class: Hashable = None
    space: str = ""
    written_at: datetime | None = None
    unreadable_at: datetime | None = None
    example: Example | None = None
    most_windows: int = 0

    @property
    def windows(self) -> int:
        """The windows of a recording or series that are learned from; without features the most there may be."""
        if self.example is None or not self.most_windows:
            return self.most_windows
        rows, dim = self.example.features.shape
        return rows if isinstance(self.example.question, SegmentsInput) else ceil(rows * dim / USUAL_DIM)

    @cached_property
    def words(self) -> int:
        """The words of the text, which the question for spans is about."""
        question = self.question or (self.example.question if self.example else None)
        return 0 if question is None else len(find_words(question.contents[0].text or ""))

    @property
    def contents(self) -> int:
        """The number of contents that the question is about."""
        question = self.question or (self.example.question if self.example else None)
        return 0 if question is None else len(question.contents)

    @property
    def features_question(self) -> Input | None:
        """What the model is asked for the features; None if it need not be asked."""
        return None if self.question is None else FeaturesInput.of(self.question, self.target)

    def is_unreadable(self, at: datetime) -> bool:
        """Whether the model server could not read it a short while ago."""
        return self.unreadable_at is not None and not task_features.is_asked_again(self.unreadable_at, at)

    @property
    def is_usable(self) -> bool:
        """Whether a head can learn from the task, once there are features."""
        return self.question is not None or self.example is not None

    def with_row(self, row: TaskFeatures) -> "AnnotatedTask":
        """Return the task with its features, and without its contents, which may be large."""
        if self.question is None:
            return self
        if row.reason is not None:
            return replace(self, unreadable_at=row.written_at)
        question = self.question
        if not isinstance(question, IN_TEXTS):  # spans are found by their place in the text
            contents = tuple(
                Content(modality=content.modality, text="", series_format=content.series_format)
                for content in question.contents
            )
            question = question.model_copy(update={"contents": contents})
        example = Example.of(question, task_features.as_features(row), self.target)
        return replace(self, question=None, space=row.space, written_at=row.written_at, example=example)


@dataclass
class AnnotatedTasks:
    """The annotated tasks of a project under one label config: by control tag and task id.

    Not thread-safe.

    Args:
        adapters: by control tag the adapter whose features a head is fitted on, beside the base model's.
        is_cut: whether the project may have more annotations than were read, so that which tasks there are depends
            on all of them.
    """

    label_config: str
    adapters: Mapping[str, str]
    by_tag: dict[str, dict[int, AnnotatedTask]] = field(default_factory=lambda: defaultdict(dict))
    is_cut: bool = False

    @property
    def nbytes(self) -> int:
        """Bytes in memory, about."""
        tasks = [task for of_tag in self.by_tag.values() for task in of_tag.values()]
        examples = [task.example for task in tasks if task.example]
        features = sum(example.features.nbytes + BYTES_PER_LINE * len(example.lines) for example in examples)
        return BYTES_PER_TASK * len(tasks) + features

    def update(self, session: Session, project: Project, bound: BoundConfig, settings: Settings) -> None:
        """Read the tasks whose annotations have changed, and forget those that have none any more."""
        most = ANNOTATIONS_PER_TASK * settings.head_max_tasks
        states = _states(session, project, most)
        self.is_cut = sum(map(len, states.values())) >= most
        stale = {
            task_id
            for problem in bound.bindings
            for task_id, state in states.items()
            if task_id not in self.by_tag[problem.from_name]
            or self.by_tag[problem.from_name][task_id].state != state
        }
        annotations = _annotations(session, project, states, stale)
        for problem in bound.bindings:
            tasks = self.by_tag[problem.from_name]
            for task_id in tasks.keys() - states.keys():
                del tasks[task_id]
            examples, _ = make_examples(problem, bound.config, annotations, settings, project.renamed_labels or {})
            tasks |= {task_id: AnnotatedTask(states[task_id]) for task_id in stale}
            tasks |= {
                example.task_id: _annotated(
                    example, states[example.task_id], self.adapters.get(problem.from_name), settings.segments_max_s
                )
                for example in examples
                if _is_headed(example.question)
            }

    def chosen(self, problem: Problem, most: int) -> dict[int, AnnotatedTask]:
        """The tasks from which the head of a control tag learns, by task id, sorted.

        A head answers one question. Where tasks bring labels of their own, it is the one that most of them ask. If
        there are too many tasks, the newest are taken from the classes in turn.
        """
        most = min(most, MOST_TEXTS) if problem.input_type in MANY_ROWS else most
        usable = {task_id: task for task_id, task in self.by_tag[problem.from_name].items() if task.is_usable}
        counts = Counter(task.labels for task in usable.values())
        labels = min(counts, key=lambda value: (-counts[value], value), default="")
        same = {task_id: task for task_id, task in usable.items() if task.labels == labels}
        chosen = _newest_balanced(same, most)
        if problem.input_type in IN_TEXTS:
            chosen = _newest_within(chosen, lambda task: task.words, MOST_WORDS)
        if problem.input_type in (SegmentsInput, SeriesInput):
            # A head needs two tasks, however large they are. There must be room for the most that a task may have,
            # so that it does not depend on the task's features whether they are computed.
            most_of_task = MOST_WINDOWS // 2
            chosen = _newest_within(
                chosen,
                lambda task: min(task.windows, most_of_task),
                MOST_WINDOWS,
                lambda task: min(task.most_windows, most_of_task),
            )
        if issubclass(problem.input_type, (EachInput, PictureRelationsInput)):
            chosen = _newest_within(chosen, lambda task: task.contents, MOST_CONTENTS)
        return dict(sorted(chosen.items()))

    def keep(self, from_name: str, tasks: Mapping[int, AnnotatedTask]) -> None:
        """Keep tasks that have got their features."""
        self.by_tag[from_name] |= tasks

    def forget(self, from_name: str, task_ids: Sequence[int]) -> None:
        """Have tasks read anew, since their features are out of date."""
        for task_id in task_ids:
            del self.by_tag[from_name][task_id]


def _is_headed(question: Input) -> bool:
    """Whether there are heads for such questions. For spans the text must be in the task's data."""
    if isinstance(question, IN_TEXTS) and not isinstance(question, PictureRelationsInput):
        return question.contents[0].text is not None
    return isinstance(question, HEADED)


def _states(session: Session, project: Project, most: int) -> dict[int, State]:
    """Task id -> the state of its annotations, of the newest annotations by Label Studio's times."""
    columns = (Annotation.id, Annotation.task_id, Annotation.times_applied)
    newest: Select[int, int | None, int] = select(*columns).where(*project_heads.usable_annotations(project))
    restored = project_heads.restored_annotation_ids(session, project)
    since = project.heads_restored_at
    if restored is not None and since is not None:
        # In the query, so that what came between does not use up the limit.
        newest = newest.where(or_(Annotation.id.in_(restored), Annotation.received_at > since))
    states: dict[int, list[tuple[int, int]]] = defaultdict(list)
    ordered = newest.order_by(Annotation.updated_at.desc(), Annotation.id.desc()).limit(most)
    for annotation_id, task_id, times_applied in session.execute(ordered):
        states[task_id or 0].append((annotation_id, times_applied))
    return {task_id: tuple(sorted(state)) for task_id, state in states.items()}


def _annotations(
    session: Session, project: Project, states: Mapping[int, State], task_ids: set[int]
) -> list[Annotation]:
    """The annotations of some tasks that are in their states."""
    ids = {annotation_id for task_id in task_ids for annotation_id, _ in states[task_id]}
    usable = select(Annotation).where(*project_heads.usable_annotations(project))
    return [
        row for chunk in id_chunks(sorted(ids)) for row in session.scalars(usable.where(Annotation.id.in_(chunk)))
    ]


def _annotated(
    example: TrainingExample, state: State, adapter: str | None, segments_max_s: float
) -> AnnotatedTask:
    question = FeaturesInput.of(example.question, example.target)
    return AnnotatedTask(
        state,
        example.annotation_ids,
        example.question,
        task_features.question_digest(question, adapter),
        task_features.labels_digest(question),
        example.target,
        example.label_class,
        most_windows=_count_windows(example.question, example.target, segments_max_s),
    )


def _count_windows(question: Input, target: object, segments_max_s: float) -> int:
    """The most windows of a recording or series that a head may learn from; 0 of other tasks.

    It is known without features. Annotations say how long a sound is, and not how long a video or a series is.
    """
    if isinstance(question, SegmentsInput):
        length_s = target.length_s if isinstance(target, SegmentTarget) else 0.0
        return count_windows(min(length_s or segments_max_s, segments_max_s), question.step_s)
    if isinstance(question, SeriesInput) and question.contents[0].series_format is not None:
        dim = feature_count(len(question.contents[0].series_format.channels))
        return ceil(MOST_LEARNED * dim / USUAL_DIM)
    return 0


def _newest_balanced(tasks: Mapping[int, AnnotatedTask], most: int) -> dict[int, AnnotatedTask]:
    """At most `most` tasks: of each class in turn the newest, by the ids that Label Studio has counted up."""
    if len(tasks) <= most:
        return dict(tasks)
    classes: dict[Hashable, list[int]] = defaultdict(list)
    for task_id, task in sorted(tasks.items(), key=lambda item: (max(item[1].annotation_ids), item[0])):
        classes[task.label_class].append(task_id)
    chosen: list[int] = []
    while len(chosen) < most:
        for members in classes.values():
            if members:
                chosen.append(members.pop())
    return {task_id: tasks[task_id] for task_id in chosen[:most]}


def _newest_within(
    tasks: Mapping[int, AnnotatedTask],
    size_of: Callable[[AnnotatedTask], int],
    most: int,
    room_for: Callable[[AnnotatedTask], int] | None = None,
) -> dict[int, AnnotatedTask]:
    """The newest tasks that have a size of `most` together. A task that has more alone is left out.

    Args:
        room_for: what must be left for a task; None: its size.
    """
    chosen: dict[int, AnnotatedTask] = {}
    left = most
    for task_id, task in sorted(tasks.items(), key=lambda item: (-max(item[1].annotation_ids), item[0])):
        if (room_for or size_of)(task) <= left:
            chosen[task_id] = task
            left -= size_of(task)
    return chosen
