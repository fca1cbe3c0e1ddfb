"""Fits the heads of projects anew after every change of their annotations. Runs in a thread of the light worker.

A project's heads are a function of its annotations: the same, bit for bit, whatever the order of the events, and
however often and by how many workers they are fitted. A fit that was overtaken by another is thrown away. A kill
leaves nothing but a folder that nothing names; the project is still due, and the next sweep fits it.
"""

import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import select

from lorabel.database import project_heads, projects, task_features, versions
from lorabel.database.adapter_folders import HEAD_FILE, heads_folder, tag_folder
from lorabel.database.tables import Annotation, Project, ProjectHead, now
from lorabel.errors import LabelConfigError, ModelServerError, NotFoundError
from lorabel.families.encoders.heads.fit import Example, fit_head
from lorabel.media.fetching import digest
from lorabel.problems.binding import BoundConfig, bind
from workers.examples import make_examples
from workers.feature_collection import Collected, Collection, collect_features
from workers.services import Services

log = logging.getLogger(__name__)

# Annotations that are read for each task that a head may learn from: a task may have several annotators.
ANNOTATIONS_PER_TASK = 2
FOLDERS_KEPT = 8
# A prediction that is under way may still read the head that it began with.
KEPT_S = 600.0
MOST_NUMBERS_TRIED = 100


@dataclass(frozen=True)
class FittedHead:
    """A head as it is stored. `file` is the content of its file, the other fields are those of `ProjectHead`."""

    file: bytes
    labels: str
    adapter: str | None
    annotation_ids: list[int]


@dataclass(frozen=True)
class _Due:
    """A project as it was read, with the annotations that its heads are to be fitted on.

    Attributes:
        adapters: by control tag the adapter whose features a head is fitted on, beside the base model's.
        heads: by control tag the head that answers so far.
    """

    project: Project
    annotations: Sequence[Annotation]
    bound: BoundConfig
    adapters: Mapping[str, str]
    heads: Mapping[str, ProjectHead]


def fit_forever(services: Services, stop: threading.Event) -> None:
    """Fit what is due whenever `services.heads_wanted` is set, until `stop` is set."""
    while not stop.is_set():
        services.heads_wanted.wait()
        services.heads_wanted.clear()
        try:
            while not stop.is_set() and fit_due(services):
                """Some projects have more features to be computed than one turn may."""
        except Exception:
            log.exception("heads were not fitted; the next attempt comes in %g s", services.settings.sweep_seconds)


def fit_due(services: Services) -> bool:
    """Fit the heads of every project whose annotations or label config have changed, each project once.

    Returns:
        Whether some project should be fitted again at once, on features that could not be computed in this turn.
    """
    with services.store.read() as session:
        project_ids = project_heads.list_due(session)
    is_more = False
    for project_id in project_ids:
        try:
            is_more |= fit_project(services, project_id)
        except ModelServerError as error:
            log.warning("project %d: its heads wait for the model server: %s", project_id, error)
        except NotFoundError:
            log.debug("project %d was deleted", project_id)
        except Exception:
            log.exception("project %d: its heads were not fitted", project_id)
    return is_more


def fit_project(services: Services, project_id: int) -> bool:
    """Fit the heads of a project, and make them answer.

    Returns:
        Whether features are still missing, and some were computed.

    Raises:
        ModelServerError: features are missing, and the model server cannot be reached or failed.
    """
    due = _read(services, project_id)
    collected = {
        problem.from_name: _collect(services, due, index) for index, problem in enumerate(due.bound.bindings)
    }
    is_complete = all(of_tag.is_complete for of_tag in collected.values())
    if not any(_waits(due, tag, of_tag) for tag, of_tag in collected.items()):
        heads = {
            tag: head
            for tag, of_tag in collected.items()
            if (head := _fit(of_tag, due.adapters.get(tag))) is not None
        }
        _keep(services, due, heads, is_complete=is_complete)
    return not is_complete and any(of_tag.computed for of_tag in collected.values())


def _waits(due: _Due, tag: str, collected: Collected) -> bool:
    """Whether the former head answers, with its own adapter, until all features of the new adapter are there."""
    head = due.heads.get(tag)
    return head is not None and head.adapter != due.adapters.get(tag) and not collected.is_complete


def _read(services: Services, project_id: int) -> _Due:
    """The newest usable annotations, by Label Studio's times, so that the order of arrival changes nothing."""
    usable = select(Annotation).where(
        Annotation.project_id == project_id,
        Annotation.is_deleted.is_(False),
        Annotation.was_cancelled.is_(False),
        Annotation.task_id.is_not(None),
    )
    newest = usable.order_by(Annotation.updated_at.desc(), Annotation.id.desc())
    most = ANNOTATIONS_PER_TASK * services.settings.head_max_tasks
    with services.store.read() as session:
        project = projects.get(session, project_id)
        annotations = session.scalars(newest.limit(most)).all()
        adapters = versions.adapters_beside_head(session, project, project.live_number)
        heads = project_heads.of_project(session, project_id)
        restored = project_heads.restored_annotation_ids(session, project)
    try:
        bound = bind(project.label_config or "")
    except LabelConfigError as error:
        log.warning("project %d has no heads: %s", project_id, error)
        bound = bind("<View/>")
    if restored is not None and project.heads_restored_at is not None:
        since = project.heads_restored_at
        annotations = [row for row in annotations if row.id in restored or row.received_at > since]
    return _Due(project, annotations, bound, adapters, heads)


def _collect(services: Services, due: _Due, index: int) -> Collected:
    problem, settings = due.bound.bindings[index], services.settings
    examples, _ = make_examples(problem, due.bound.config, due.annotations, settings)
    adapter = due.adapters.get(problem.from_name)
    return collect_features(services, Collection(due.project, problem.from_name, examples, adapter))


def _fit(collected: Collected, adapter: str | None) -> FittedHead | None:
    if not collected.examples:
        return None
    examples = [
        Example.of(example.question, task_features.as_features(row), example.target)
        for example, row in collected.examples
    ]
    head = fit_head(examples, collected.space)
    if head is None:
        return None
    annotation_ids = sorted(
        annotation_id for example, _ in collected.examples for annotation_id in example.annotation_ids
    )
    return FittedHead(head.to_bytes(), collected.labels, adapter, annotation_ids)


def _keep(services: Services, due: _Due, heads: dict[str, FittedHead], *, is_complete: bool) -> None:
    """Write the heads and make them answer, unless the project was fitted on newer annotations meanwhile.

    Heads that are the same as before keep their number, so that Label Studio keeps its predictions.
    """
    store, project_id = services.store, due.project.id
    with store.read() as session:
        before = project_heads.of_project(session, project_id)
    described = {tag: (digest(head.file), head.labels) for tag, head in heads.items()}
    is_changed = described != {tag: (row.digest, row.labels) for tag, row in before.items()}
    number = due.project.head_number
    if is_changed:
        number = _write_files(services, due.project, heads) if heads else 0
    with store.write() as session:
        project = projects.get(session, project_id, is_locked=True)
        if _is_overtaken(project, due.project) or (not is_changed and project.head_number != number):
            return
        rows = {
            tag: ProjectHead(
                project_id=project_id,
                from_name=tag,
                folder=heads_folder(project_id, number),
                labels=head.labels,
                digest=described[tag][0],
                adapter=head.adapter,
                annotation_ids=head.annotation_ids,
                fitted_at=now(),
            )
            for tag, head in heads.items()
        }
        project_heads.replace(session, project, rows, number)
        project.head_config = due.project.label_config
        project.head_revision = due.project.annotation_revision if is_complete else project_heads.INCOMPLETE
    if is_changed:
        log.info("project %d: heads %d answer for %s", project_id, number, ", ".join(heads) or "no control tag")
        services.adapter_folders.prune_heads(project_id, FOLDERS_KEPT, KEPT_S, except_number=number)


def _is_overtaken(project: Project, read: Project) -> bool:
    """Whether the project has heads of this revision or a newer one, or another label config by now.

    Args:
        read: the project when its heads began to be fitted.
    """
    if project.label_config != read.label_config:
        return True
    return project.head_config == read.label_config and project.head_revision >= read.annotation_revision


def _write_files(services: Services, project: Project, heads: dict[str, FittedHead]) -> int:
    """Write a folder with all heads of a project. Returns its number, which no folder had before."""
    folders = services.adapter_folders

    def write_into(folder: Path) -> None:
        for tag, head in heads.items():
            (folder / tag_folder(tag)).mkdir()
            (folder / tag_folder(tag) / HEAD_FILE).write_bytes(head.file)

    first = max([project.head_number, *folders.head_numbers(project.id)], default=0) + 1
    for number in range(first, first + MOST_NUMBERS_TRIED):
        try:
            folders.write(heads_folder(project.id, number), write_into)
        except FileExistsError:
            continue  # another worker has just written this one
        return number
    raise FileExistsError(f"no number is free for heads of project {project.id} from {first} on")
