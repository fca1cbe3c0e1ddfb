"""New annotations become a candidate version, and the candidate becomes live if it is not worse.

A run is claimed in the database, so that a second job for it does nothing. It shows that it lives by a
heartbeat; when that stops, the sweep gives the run to another worker, once. The new version's folder and row
appear together, after evaluation; until then a kill leaves everything as it was.
"""

import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote

from sqlalchemy import bindparam, select, update
from sqlalchemy.orm import Session

from lorabel.database import projects, training_runs, versions
from lorabel.database.tables import (
    Annotation,
    ModelVersion,
    Project,
    RunState,
    TrainingRun,
    VersionState,
    version_name,
)
from lorabel.errors import LorabelError, RunLostError
from lorabel.families.base import Family
from lorabel.families.device import choose_device, choose_precision
from lorabel.families.loading import family_for
from lorabel.inference import promotion
from lorabel.problems.base import Problem
from lorabel.problems.binding import bind
from workers import examples, lora, services
from workers.candidate import Candidate, TrainingContext, make_candidate
from workers.collect import apply_pending
from workers.heartbeat import heartbeat
from workers.reconcile import reconcile
from workers.services import Services

log = logging.getLogger(__name__)

REPORT_EVERY_S = 0.5
SECOND_LOOK_AFTER_S = 2.0


def run(run_id: int) -> None:
    """The RQ job. Whatever goes wrong ends up in the run's row, never in the queue."""
    here = services.current()
    claimed = training_runs.claim(here.store, run_id)
    if claimed is None:
        log.info("run %d is not waiting, or another run of its project is on", run_id)
        return
    try:
        with heartbeat(here, claimed):
            _train(here, claimed)
    except Exception as error:
        log.exception("run %d failed", run_id)
        reason = str(error) if isinstance(error, LorabelError) else f"{type(error).__name__}: {error}"
        _fail(here, claimed, reason)
    with here.store.read() as session:
        following = training_runs.queued(session, claimed.project_id)
    if following is not None:
        here.jobs.train(following.id, following.attempt)


def _fail(here: Services, claimed: TrainingRun, reason: str) -> None:
    try:
        with here.store.write() as session:
            training_runs.finish(session, claimed, RunState.FAILED, error=reason)
    except RunLostError as error:
        log.warning("its reason is not kept: %s", error)


def _train(here: Services, claimed: TrainingRun) -> None:
    project, annotations, compared = _gather(here, claimed)
    bound = bind(project.label_config or "")
    if not bound.bindings:
        raise LorabelError(f"no control tag of project {project.id}'s label config is served: nothing can learn")
    precision = choose_precision(here.settings, choose_device(here.settings.for_training))
    recipe = lora.Recipe.from_settings(here.settings, str(precision).removeprefix("torch."))
    training_runs.report(here.store, claimed, config={**asdict(recipe), "compared": compared})
    here.registry.remove_leftovers(f"p{project.id}.")
    with TemporaryDirectory(prefix="lorabel-") as scratch:
        candidates = {}
        for problem in bound.bindings:
            plan = examples.plan(problem, bound.config, annotations, here.settings, recipe.seed + claimed.id)
            made = _train_problem(here, claimed, project, problem, plan, recipe, Path(scratch))
            if made is not None:
                candidates[problem.from_name] = made
        _conclude(here, claimed, project, annotations, candidates, Path(scratch))


def _train_problem(
    here: Services,
    claimed: TrainingRun,
    project: Project,
    problem: Problem,
    plan: examples.Plan,
    recipe: lora.Recipe,
    scratch: Path,
) -> Candidate | None:
    if not plan.train:
        return None
    family = here.family(family_for(plan.train[0].question))
    live = _live_folder(here, project, problem, family)
    resolve = here.authorizations.resolver(project, here.settings)
    context = TrainingContext(live, resolve, f"{version_name(project.id, project.live_number)}-next")
    folder = scratch / _folder_name(problem.from_name)
    return make_candidate(here, problem, family, plan, context, recipe, folder, _reporter(here, claimed))


def _gather(here: Services, claimed: TrainingRun) -> tuple[Project, list[Annotation], str]:
    """START_TRAINING may arrive before the event of the annotation that caused it: look a second time."""
    apply_pending(here.store)
    compared = reconcile(here, claimed.project_id)
    project, annotations = _usable(here, claimed.project_id)
    if not any(annotation.run_id is None for annotation in annotations):
        time.sleep(SECOND_LOOK_AFTER_S)
        apply_pending(here.store)
        project, annotations = _usable(here, claimed.project_id)
    return project, annotations, compared


def _usable(here: Services, project_id: int) -> tuple[Project, list[Annotation]]:
    with here.store.read() as session:
        usable = select(Annotation).where(
            Annotation.project_id == project_id,
            Annotation.is_deleted.is_(False),
            Annotation.was_cancelled.is_(False),
        )
        return projects.get(session, project_id), list(session.scalars(usable))


def _live_folder(here: Services, project: Project, problem: Problem, family: Family) -> Path | None:
    """None if the base models are live, or if live was trained on another base model than the present one."""
    if not project.live_number:
        return None
    with here.store.read() as session:
        live = versions.get(session, project.id, project.live_number)
    name, base = live.adapters.get(problem.from_name), live.base_models.get(problem.from_name)
    if name is None:
        return None
    if base != family.source:
        log.warning("%s was trained on %s, not on %s: training begins anew", live.name, base, family.source)
        return None
    return here.registry.path(name)


def _conclude(
    here: Services,
    claimed: TrainingRun,
    project: Project,
    annotations: list[Annotation],
    candidates: dict[str, Candidate],
    scratch: Path,
) -> None:
    """The folder first, then version, annotations and run in one transaction, if the run is still ours.

    A folder without a row is what a kill in between leaves; its number is not used again, because the model
    server may have loaded it.
    """
    training_runs.report(here.store, claimed)
    version = None
    if candidates:
        with here.store.read() as session:
            used = here.registry.last_number(project.id)
            number = max(versions.next_number(session, project.id), used + 1)
            version = _version(session, project, number, claimed, candidates)
        here.registry.write(version.name, lambda folder: _copy(scratch, folder))
        if version.state == VersionState.CANDIDATE:
            promotion.preload(here.model_client, version.adapters)
    with here.store.write() as session:
        project = session.get_one(Project, project.id, with_for_update=True)
        if version is not None and version.parent != project.live_number:
            version.state = VersionState.REJECTED
            why = f"{project.live_version} became live while this was made from v{version.parent}"
            version.metrics = {**version.metrics, "decision": f"{why}; {version.metrics['decision']}"}
        training_runs.finish(session, claimed, RunState.FINISHED, **_summary(version, candidates))
        _mark_taken(session, claimed, annotations)
        if version is not None:
            session.add(version)
            session.flush()
            if version.state == VersionState.CANDIDATE:
                versions.make_live(session, project, version.number)
            log.info("%s is %s: %s", version.name, version.state, version.metrics["decision"])
    if version is not None and version.state == VersionState.LIVE:
        here.jobs.look_ahead(project.id)


def _summary(version: ModelVersion | None, candidates: dict[str, Candidate]) -> dict[str, Any]:
    if version is None:
        return {"decision": "nothing to learn from: no annotation of a training task could be used"}
    skipped = {tag: {str(i): why for i, why in made.skipped.items()} for tag, made in candidates.items()}
    return {
        "version_number": version.number,
        "decision": version.metrics["decision"],
        "metrics": {**version.metrics, "skipped": skipped},
        "annotation_ids": version.trained_on,
    }


def _version(
    session: Session, project: Project, number: int, claimed: TrainingRun, candidates: dict[str, Candidate]
) -> ModelVersion:
    """Per control tag the candidate's adapter if it was accepted, else live's. Rejected if none was."""
    live = versions.get(session, project.id, project.live_number) if project.live_number else None
    name = version_name(project.id, number)
    accepted = [tag for tag, candidate in candidates.items() if candidate.judgement.is_accepted]
    chosen = accepted or list(candidates)
    return ModelVersion(
        project_id=project.id,
        number=number,
        parent=project.live_number,
        state=VersionState.CANDIDATE if accepted else VersionState.REJECTED,
        base_models={
            **(live.base_models if live else {}),
            **{tag: candidate.base_model for tag, candidate in candidates.items()},
        },
        adapters={
            **(live.adapters if live else {}),
            **{tag: f"{name}/{_folder_name(tag)}" for tag in chosen},
        },
        metrics={
            "candidate": {tag: candidate.judgement.candidate.values for tag, candidate in candidates.items()},
            "live": {tag: candidate.judgement.live.values for tag, candidate in candidates.items()},
            "loss": {tag: candidate.loss for tag, candidate in candidates.items()},
            "calibration": {
                **(live.metrics.get("calibration", {}) if live else {}),
                **{
                    tag: None if (found := candidates[tag].calibration) is None else asdict(found)
                    for tag in chosen
                },
            },
            "decision": "; ".join(f"{tag}: {made.judgement.decision}" for tag, made in candidates.items()),
        },
        trained_on=sorted({i for candidate in candidates.values() for i in candidate.trained_on}),
        run_id=claimed.id,
    )


def _mark_taken(session: Session, claimed: TrainingRun, annotations: list[Annotation]) -> None:
    """An annotation that was changed in the meantime stays new. Old ones are not written: a run must not hold
    the database longer the more there are."""
    new = [{"its_id": a.id, "its_time": a.updated_at} for a in annotations if a.run_id is None]
    same = (Annotation.id == bindparam("its_id"), Annotation.updated_at == bindparam("its_time"))
    if new:
        session.connection().execute(update(Annotation).where(*same).values(run_id=claimed.id), new)


def _copy(scratch: Path, folder: Path) -> None:
    for adapter in scratch.iterdir():
        shutil.copytree(adapter, folder / adapter.name)


def _folder_name(from_name: str) -> str:
    """One folder's name, whatever the tag is called: `..` must not lead out of the version's folder."""
    return quote(from_name, safe="").replace(".", "%2E")


def _reporter(here: Services, claimed: TrainingRun) -> Callable[[lora.Progress], None]:
    last = 0.0

    def report(progress: lora.Progress) -> None:
        nonlocal last
        if time.monotonic() - last < REPORT_EVERY_S and progress.step < progress.steps:
            return
        last = time.monotonic()
        training_runs.report(
            here.store,
            claimed,
            step=progress.step,
            steps=progress.steps,
            loss=progress.loss,
            seconds_left=progress.seconds_left,
        )

    return report
