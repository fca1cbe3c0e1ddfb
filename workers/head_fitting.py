"""Fits the heads of projects anew after every change of their annotations. Runs in a thread of the light worker.

A project's heads are a function of its annotations: the same, bit for bit, whatever the order of the events, and
however often and by how many workers they are fitted. A fit that was overtaken by another is thrown away. A kill
leaves nothing but a folder that nothing names; the project is still due, and the next sweep fits it.
"""

import logging
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from cachetools import LRUCache, TTLCache
from sqlalchemy.orm import Session
from threadpoolctl import threadpool_limits

from lorabel.database import instructions, project_heads, projects, task_features, versions
from lorabel.database.adapter_folders import HEAD_FILE, heads_folder, tag_folder
from lorabel.database.tables import Project, ProjectHead, now
from lorabel.errors import LabelConfigError, NotFoundError
from lorabel.families.encoders.heads.fit import fit_head
from lorabel.media.fetching import digest
from lorabel.problems.base import Problem
from lorabel.problems.binding import BoundConfig, bind
from workers.annotated_tasks import MANY_ROWS, AnnotatedTasks
from workers.feature_collection import Collected, collect_features
from workers.feature_requests import ASKING, FeatureRequests, Missing
from workers.fitted_head import FittedHead
from workers.privacy_budget import OvertakenError
from workers.private_heads import private_heads
from workers.services import Services

log = logging.getLogger(__name__)

# For the annotated tasks of all projects that are kept in memory.
MEMORY_BYTES = 128 * 2**20
FOLDERS_KEPT = 8
# A prediction that is under way may still read the head that it began with.
KEPT_S = 600.0
MOST_NUMBERS_TRIED = 100
# Of `Store.claim`: the project with this id is being fitted.
FITTING = 0x10AF17
# Until a project that another light worker is fitting is looked at again, since it may have changed meanwhile. The
# pause doubles each time while the fit goes on, because a look is a query about all projects.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 3.2
# A project that is annotated while its heads are fitted rests before the next fit. Otherwise many annotators, or a
# script, would keep a core busy with heads that nobody sees.
REST_S = 0.2
MOST_RESTING = 10_000


class HeadFitter:
    """Fits the heads of all projects. Not thread-safe."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self._annotated: LRUCache[int, AnnotatedTasks] = LRUCache(
            MEMORY_BYTES, getsizeof=lambda annotated: annotated.nbytes
        )
        self.requests = FeatureRequests(services)
        self.has_left_some = False
        self._resting: TTLCache[int, bool] = TTLCache(MOST_RESTING, REST_S, time.monotonic)
        # What the model server has answered about projects that another worker was fitting then.
        self._answered_before: dict[int, int] = {}

    def fit_due(self) -> bool:
        """Fit the heads of every project whose annotations or label config have changed.

        A project that lacks features is fitted later, when the model server has answered about it:
        `services.heads_wanted` is set then. Projects have their turns in the order of `project_heads.due`.
        A project that another light worker is fitting, or asking the model server about, is left to it, and one
        that rests is fitted later; `has_left_some` says whether there were any.

        Returns:
            Whether the model server is being asked about some project.
        """
        answered = self._answered_before | self.requests.take_answered()
        self.has_left_some, self._answered_before = False, {}
        done: set[int] = set()
        left: set[int] = set()
        while (project_id := self._next_due(done, left)) is not None:
            done.add(project_id)
            try:
                with self.services.store.claim(FITTING, project_id) as is_claimed:
                    if not is_claimed:
                        left.add(project_id)
                        continue
                    left.discard(project_id)
                    is_done = self._fit_project(project_id, answered.pop(project_id, None))
            except NotFoundError:
                log.debug("project %d was deleted", project_id)
            except OvertakenError as error:
                # What it keeps is in its ledger already: to keep something else would throw that away.
                log.debug("%s", error)
            except Exception:
                log.exception("project %d: its heads were not fitted", project_id)
            else:
                if not is_done:
                    done.remove(project_id)
        self.has_left_some |= bool(left)
        self._answered_before = {project_id: answered[project_id] for project_id in left & answered.keys()}
        return self.requests.is_running()

    def _next_due(self, done: Collection[int], left: set[int]) -> int | None:
        """Read anew for each turn, since another project may have been annotated during the last one.

        Args:
            left: gets the ids of projects that come before it and that another worker has claimed, or that rest.
        """
        claimed = self.services.store.claimed(FITTING, ASKING)
        with self.services.store.look_up() as session:
            for project_id in project_heads.due(session, done):
                if self.requests.is_running(project_id):
                    continue
                if project_id not in claimed and project_id not in self._resting:
                    return project_id
                left.add(project_id)
        return None

    def _fit_project(self, project_id: int, answered: int | None) -> bool:
        """Fit the heads of a project and make them answer; or ask for the features that it lacks.

        Args:
            answered: about how many tasks the model server has just answered; None if it was not asked.

        Returns:
            False if the project should have another turn at once.
        """
        services = self.services
        with services.store.read() as session:
            project = projects.get(session, project_id)
            bound = _bind(project)
            adapters = versions.adapters_beside_head(session, project, project.live_number)
            headed = _headed(session, project, bound)
            former_heads = project_heads.of_project(session, project_id)
            annotated = self._annotated.pop(project_id, None)
            new = AnnotatedTasks(project.label_config or "", adapters)
            if annotated is None or (annotated.label_config, annotated.adapters) != (new.label_config, adapters):
                annotated = new
            annotated.update(session, project, bound, services.settings)
        collected = self._collect(project, headed, annotated)
        if annotated.nbytes <= MEMORY_BYTES:
            self._annotated[project_id] = annotated
        if any(of_tag.is_outdated for of_tag in collected.values()):
            return False
        is_complete = all(of_tag.is_complete for of_tag in collected.values())
        if answered is None and not is_complete:
            return self._ask(project, headed, annotated, _missing(collected, adapters))
        switches = {tag for tag, head in former_heads.items() if head.adapter != adapters.get(tag)}
        # A former head answers, with its own adapter, until all features of the new adapter are there.
        if all(of_tag.is_complete for tag, of_tag in collected.items() if tag in switches):
            if services.settings.dp_epsilon is None:
                heads = {
                    tag: head
                    for tag, of_tag in collected.items()
                    if (head := _fit(project_id, tag, adapters.get(tag), of_tag)) is not None
                }
            else:
                heads = private_heads(
                    services, project, collected, adapters, is_complete=is_complete, is_cut=annotated.is_cut
                )
            if _keep(services, project, heads, is_complete=is_complete):
                self._resting[project_id] = True
        if is_complete:
            large = {problem.from_name for problem in headed if problem.input_type in MANY_ROWS}
            used = {tag: of_tag.chosen for tag, of_tag in collected.items() if tag in large}
            tags = {problem.from_name for problem in bound.bindings}
            task_features.prune(services.store, project_id, tags, used)
        return is_complete or not answered

    def _collect(
        self, project: Project, headed: Sequence[Problem], annotated: AnnotatedTasks
    ) -> dict[str, Collected]:
        return {
            problem.from_name: collect_features(self.services, project, problem, annotated) for problem in headed
        }

    def _ask(
        self, project: Project, headed: Sequence[Problem], annotated: AnnotatedTasks, missing: list[Missing]
    ) -> bool:
        """Ask the model server about what a project lacks, unless another worker does, or others are to wait for.

        Returns:
            False if the project should have another turn at once.
        """
        if not self.requests.has_room(project.id, missing):
            return True
        with ExitStack() as claim:
            if not claim.enter_context(self.services.store.claim(ASKING, project.id)):
                self.has_left_some = True
                return True
            # What another worker has asked for is in the database when its claim ends, which may be just now.
            collected = self._collect(project, headed, annotated)
            if any(of_tag.is_outdated for of_tag in collected.values()):
                return False
            missing = _missing(collected, annotated.adapters)
            if not any(of_tag.tasks for of_tag in missing):
                return False
            self.requests.start(project, missing, claim.pop_all())
        return True


def fit_forever(services: Services, stop: threading.Event) -> None:
    """Fit what is due whenever `services.heads_wanted` is set, until `stop` is set."""
    fitter, is_first, pause_s = HeadFitter(services), True, FIRST_PAUSE_S
    while not stop.is_set():
        if fitter.has_left_some:
            services.heads_wanted.wait(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        else:
            services.heads_wanted.wait()
            pause_s = FIRST_PAUSE_S
        services.heads_wanted.clear()
        try:
            if is_first:
                _refit_missing(services)
                is_first = False
            if not stop.is_set():
                fitter.fit_due()
        except Exception:
            log.exception("heads were not fitted; the next attempt comes in %g s", services.settings.sweep_seconds)
    fitter.requests.join()


def _refit_missing(services: Services) -> None:
    """Have heads fitted again whose files are gone, for example after an older database was restored."""
    with services.store.read() as session:
        missing = {row.project_id for row in project_heads.list_all(session) if not _has_file(services, row)}
    for project_id in sorted(missing):
        log.warning("project %d: its heads are gone and are fitted again", project_id)
        with services.store.write() as session:
            projects.get(session, project_id, is_locked=True).head_revision = project_heads.INCOMPLETE


def _missing(collected: Mapping[str, Collected], adapters: Mapping[str, str]) -> list[Missing]:
    return [Missing(tag, adapters.get(tag), of_tag.missing) for tag, of_tag in collected.items()]


def _bind(project: Project) -> BoundConfig:
    try:
        return bind(project.label_config or "").for_project(instructions.parameters(project))
    except LabelConfigError as error:
        log.warning("project %d has no heads: %s", project.id, error)
        return bind("<View/>")


def _headed(session: Session, project: Project, bound: BoundConfig) -> list[Problem]:
    """The bindings whose heads may answer: those that no better adapter answers."""
    if not project.live_number:
        return list(bound.bindings)
    live = versions.get_serving(session, project.id, project.live_number)
    in_place = versions.tags_in_place_of_head(live)
    return [problem for problem in bound.bindings if problem.from_name not in in_place]


def _fit(project_id: int, tag: str, adapter: str | None, collected: Collected) -> FittedHead | None:
    """None if the annotations say nothing yet. A fault of one control tag does not touch the others."""
    examples = [task.example for task in collected.tasks if task.example is not None]
    try:
        # Two threads wait for each other on cores that the model server uses too: a fit took five times as long.
        with threadpool_limits(1, user_api="blas"):
            head = fit_head(examples, collected.space)
    except Exception:
        log.exception("control tag %r of project %d has no head: it cannot be fitted", tag, project_id)
        return None
    if head is None:
        return None
    annotation_ids = sorted(annotation_id for task in collected.tasks for annotation_id in task.annotation_ids)
    return FittedHead(head.to_bytes(), collected.tasks[0].labels, adapter, annotation_ids)


def _keep(services: Services, read: Project, heads: dict[str, FittedHead], *, is_complete: bool) -> bool:
    """Write the heads and make them answer, unless the project was fitted on newer annotations meanwhile.

    Heads that are the same as before keep their number, so that Label Studio keeps its predictions.

    Returns:
        Whether the project was annotated meanwhile, so that these heads are outdated already.
    """
    store, project_id = services.store, read.id
    with store.read() as session:
        before = project_heads.of_project(session, project_id)
    described = {tag: (digest(head.file), head.labels) for tag, head in heads.items()}
    is_changed = described != {tag: (row.digest, row.labels) for tag, row in before.items()}
    is_changed |= any(not _has_file(services, row) for row in before.values())
    number = read.head_number
    if is_changed:
        number = _write_files(services, read, heads) if heads else 0
    with store.write() as session:
        project = projects.get(session, project_id, is_locked=True)
        if _is_overtaken(project, read) or (not is_changed and project.head_number != number):
            if is_changed and number:
                # What these heads have learned from may be forgotten by now.
                with suppress(FileNotFoundError):
                    services.adapter_folders.empty(heads_folder(project_id, number))
            return False
        rows = {
            tag: ProjectHead(
                project_id=project_id,
                from_name=tag,
                folder=heads_folder(project_id, number) if is_changed else before[tag].folder,
                labels=head.labels,
                digest=described[tag][0],
                adapter=head.adapter,
                annotation_ids=head.annotation_ids,
                fitted_at=now(),
            )
            for tag, head in heads.items()
        }
        project_heads.replace(session, project, rows, number)
        project.head_config = read.label_config
        project.head_revision = read.annotation_revision if is_complete else project_heads.INCOMPLETE
        is_outdated = project.annotation_revision > read.annotation_revision
    if is_changed:
        log.info("project %d: heads %d answer for %s", project_id, number, ", ".join(heads) or "no control tag")
        services.adapter_folders.prune_heads(project_id, FOLDERS_KEPT, KEPT_S, except_number=number)
    return is_outdated


def _has_file(services: Services, row: ProjectHead) -> bool:
    return (services.adapter_folders.root / row.folder / tag_folder(row.from_name) / HEAD_FILE).is_file()


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
