"""Chooses the annotations that a run reads, so that its time and memory do not grow with the project.

A run reads three kinds of tasks, with all of their annotations: tasks with new annotations, held-out tasks, and
tasks that a replay can choose from. Each kind has a limit. The indexes of the table `annotation` name the tasks,
and only the JSON of chosen tasks is read.
"""

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from sqlalchemy import ColumnElement, Row, Select, Text, cast, func, literal, select
from sqlalchemy.orm import Session, defer

from lorabel.database import versions
from lorabel.database.store import id_chunks
from lorabel.database.tables import Annotation, Project
from lorabel.database.training_runs import IS_LEARNED, IS_NEW, IS_USABLE
from lorabel.settings import Settings
from workers.examples import is_held_out

# Tasks that a replay chooses from, for each example that it may take.
POOL_FACTOR = 5
WINDOWS = 50
# Learned annotations that are looked through for held-out tasks, for each one that is wanted.
SEARCH_FACTOR = 20
ROWS_PER_SEARCH = 1000
TASKS_PER_QUERY = 100
# The JSON of the annotations may have this share of TRAIN_MEMORY_MB as text. As Python objects it is larger.
TEXT_SHARE = 1 / 8
TOO_LARGE = "the annotations of this task are too large for TRAIN_MEMORY_MB"
WITHOUT_JSON = (defer(Annotation.result), defer(Annotation.task_data))


@dataclass
class Selection:
    """The annotations that a run reads.

    Args:
        annotations: usable annotations, with all others of their tasks.
        too_large: new annotations of tasks that alone need more memory than there is; their JSON is not read.
        is_partial: whether tasks were left out since those before them have filled the memory.
    """

    annotations: list[Annotation] = field(default_factory=list)
    too_large: list[Annotation] = field(default_factory=list)
    is_partial: bool = False

    @property
    def new(self) -> list[Annotation]:
        """The annotations that no accepted version has learned from."""
        return [*(annotation for annotation in self.annotations if annotation.run_id is None), *self.too_large]

    @property
    def skipped(self) -> dict[int, str]:
        """Annotation id -> why the annotation is not read."""
        return dict.fromkeys((annotation.id for annotation in self.too_large), TOO_LARGE)


def select_annotations(session: Session, project: Project, settings: Settings, seed: int) -> Selection:
    """Choose and read the annotations of a run.

    New annotations that were tried less often come first, and among equals those that waited longest. So none
    waits for ever, and what no run has read is read before what earlier runs could not use.

    Args:
        seed: decides what a replay can choose from in a large project.
    """
    new = session.execute(
        select(Annotation.id, Annotation.task_id)
        .where(Annotation.project_id == project.id, *IS_NEW)
        .order_by(Annotation.tries, Annotation.received_at, Annotation.id)
        .limit(settings.train_max_annotations)
    ).all()
    without_task = [annotation_id for annotation_id, task_id in new if task_id is None]
    of_tasks = [task_id for _, task_id in new if task_id is not None]
    held_out = _held_out_tasks(session, project.id, settings)
    pool = _replay_tasks(session, project, settings, random.Random(seed))
    selection = Selection()
    for ids in id_chunks(without_task):
        selection.annotations += session.scalars(select(Annotation).where(_is_of(project), Annotation.id.in_(ids)))
    _read(session, project, list(dict.fromkeys([*of_tasks, *held_out, *pool])), settings, selection)
    return selection


def _held_out_tasks(session: Session, project_id: int, settings: Settings) -> list[int]:
    """Of the held-out tasks that a version knows, the EVALUATE_MAX_TASKS with the newest annotations."""
    tasks: dict[int, None] = {}
    if settings.held_out_percent == 0:
        return []
    most = settings.evaluate_max_tasks
    for task_id in _learned_tasks(session, project_id, most * SEARCH_FACTOR):
        if is_held_out(task_id, settings.held_out_percent):
            tasks[task_id] = None
        if len(tasks) == most:
            break
    return list(tasks)


def _learned_tasks(session: Session, project_id: int, most: int) -> Iterator[int]:
    """The tasks of at most `most` learned annotations, the annotation with the highest id first."""
    last_id: int | None = None
    looked_at = 0
    newest_first = (
        select(Annotation.id, Annotation.task_id)
        .where(Annotation.project_id == project_id, *IS_LEARNED)
        .order_by(Annotation.id.desc())
    )
    while looked_at < most:
        older = newest_first if last_id is None else newest_first.where(Annotation.id < last_id)
        rows = session.execute(older.limit(min(ROWS_PER_SEARCH, most - looked_at))).all()
        if not rows:
            return
        looked_at, last_id = looked_at + len(rows), rows[-1].id
        yield from (task_id for _, task_id in rows if task_id is not None)


def _replay_tasks(session: Session, project: Project, settings: Settings, generator: random.Random) -> list[int]:
    """The tasks that a replay chooses from: all learned tasks if they are few.

    Else one half is what the live version was trained on. Its own replay was balanced by class, so rare classes
    stay in the pool from version to version. The other half is drawn from all learned annotations.
    """
    size = settings.replay_annotations * POOL_FACTOR
    if size == 0:
        return []
    learned = select(Annotation.id, Annotation.task_id).where(Annotation.project_id == project.id, *IS_LEARNED)
    by_id = learned.order_by(Annotation.id)
    # Some of the learned annotations are of held-out tasks, and do not count.
    rows = session.execute(by_id.limit(2 * size + 1)).all()
    if len(rows) > 2 * size:
        trained_on = _trained_on(session, project)
        rows = []
        for ids in id_chunks(generator.sample(trained_on, min(size // 2, len(trained_on)))):
            rows += session.execute(learned.where(Annotation.id.in_(ids))).all()
        rows += _drawn(session, by_id, generator, size - len(rows))
    tasks = dict.fromkeys(task_id for _, task_id in rows if task_id is not None)
    return [task_id for task_id in tasks if not is_held_out(task_id, settings.held_out_percent)]


def _drawn(
    session: Session, by_id: Select[int, int | None], generator: random.Random, count: int
) -> list[Row[int, int | None]]:
    """About `count` of the rows of a query, in WINDOWS runs of successive ids that begin at random ids.

    A random order of all rows would read all of them.
    """
    (lowest,) = session.execute(by_id.limit(1).with_only_columns(Annotation.id)).one()
    descending = by_id.order_by(None).order_by(Annotation.id.desc())
    (highest,) = session.execute(descending.limit(1).with_only_columns(Annotation.id)).one()
    rows: list[Row[int, int | None]] = []
    for _ in range(WINDOWS):
        window = by_id.where(Annotation.id >= generator.randint(lowest, highest))
        rows += session.execute(window.limit(math.ceil(count / WINDOWS)))
    return rows


def _trained_on(session: Session, project: Project) -> list[int]:
    """The annotations that the live version was trained on."""
    if not project.live_number:
        return []
    return versions.get(session, project.id, project.live_number).trained_on


def _read(
    session: Session, project: Project, task_ids: Sequence[int], settings: Settings, selection: Selection
) -> None:
    """Read the usable annotations of tasks, the first tasks first, as far as there is memory.

    A task that needs more alone is skipped: it would be the first again in every later run.
    """
    limit = int(settings.train_memory_mb * 2**20 * TEXT_SHARE)
    characters = 0
    lengths_of_columns = (
        func.coalesce(func.length(cast(column, Text)), 0) for column in (Annotation.result, Annotation.task_data)
    )
    length = sum(lengths_of_columns, start=literal(0))
    for start in range(0, len(task_ids), TASKS_PER_QUERY):
        of_tasks = (_is_of(project), Annotation.task_id.in_(task_ids[start : start + TASKS_PER_QUERY]), *IS_USABLE)
        lengths = select(Annotation.task_id, func.sum(length)).where(*of_tasks).group_by(Annotation.task_id)
        chosen = []
        for task_id, task_characters in session.execute(lengths):
            if task_characters > limit:
                new = select(Annotation).where(_is_of(project), Annotation.task_id == task_id, *IS_NEW)
                selection.too_large += session.scalars(new.options(*WITHOUT_JSON))
            elif characters + task_characters <= limit:
                characters += task_characters
                chosen.append(task_id)
            else:
                selection.is_partial = True
        selection.annotations += session.scalars(
            select(Annotation).where(_is_of(project), Annotation.task_id.in_(chosen), *IS_USABLE)
        )


def _is_of(project: Project) -> ColumnElement[bool]:
    return Annotation.project_id == project.id
