"""Trains a candidate version from new annotations, and makes it live if it is better than the live version.

Only annotations that an accepted version has learned from are old after a run. All others stay new, and
`training_runs.request_due` says when they are tried again.

A run is claimed in the database, so a second job for the same run does nothing. A heartbeat renews the run's
lease; if it stops, the sweep gives the run to another worker, once. The new version's folder and row are written
after the evaluation, so a kill before that changes nothing.
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from operator import attrgetter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sqlalchemy import bindparam, update
from sqlalchemy.orm import Session

from lorabel.database import instructions, project_heads, projects, task_outcomes, training_runs, versions
from lorabel.database.adapter_folders import tag_folder
from lorabel.database.loss_curves import LossCurve
from lorabel.database.tables import (
    Annotation,
    ModelVersion,
    Project,
    RunState,
    TrainingRun,
    VersionState,
    version_name,
)
from lorabel.errors import LorabelError, NotFoundError, RunLostError, short_reason
from lorabel.families.base import Family
from lorabel.families.device import choose_device, choose_precision
from lorabel.families.loading import check_lora_kinds, family_for
from lorabel.feature_contracts import HEADED, HEADED_ALONE
from lorabel.inference.answering_heads import answering_heads
from lorabel.problems.base import Problem
from lorabel.problems.binding import bind
from workers import examples, lora, new_version, peft_kinds, private_training, tracking
from workers.attempt import Attempt, TrainingContext
from workers.beside_head import recipe_for
from workers.candidate import make_candidate
from workers.collect import apply_during_run
from workers.heartbeat import heartbeat
from workers.outcomes import make_outcomes
from workers.reconcile import reconcile
from workers.selection import Selection, select_annotations
from workers.services import Services

log = logging.getLogger(__name__)

REPORT_EVERY_S = 0.5
SECOND_LOOK_AFTER_S = 2.0
HEAD_ALONE = "the head answers; LoRA would change none of its answers, so none is trained"
NO_LAYERS = "{} has no layers for LoRA: its head learns after every annotation"
BY_HEADS_ALONE = "only a head learns this, after every annotation"
NOTHING_TO_LEARN = "nothing to learn from: no new annotation of a training task could be used"


def finetune(run_id: int) -> None:
    """The RQ job. Any error is kept in the run's row and never reaches the queue."""
    services = Services.current()
    run = training_runs.claim(services.store, run_id)
    if run is None:
        log.info("run %d is not waiting, or another run of its project is on", run_id)
        return
    try:
        with heartbeat(services, run):
            _train(services, run)
    except Exception as error:
        log.exception("run %d failed", run_id)
        _fail(services, run, services.redactor.masked_message(short_reason(error)))
    with services.store.read() as session:
        queued_run = training_runs.find_queued(session, run.project_id)
    if queued_run is not None:
        services.jobs.train(queued_run.id, queued_run.attempt)


def _fail(services: Services, run: TrainingRun, reason: str) -> None:
    try:
        with services.store.write() as session:
            training_runs.finish(session, run, RunState.FAILED, error=reason)
    except RunLostError as error:
        log.warning("its reason is not kept: %s", error)


def _train(services: Services, run: TrainingRun) -> None:
    project, selection, comparison = _gather_annotations(services, run)
    bound = bind(project.label_config or "").for_project(instructions.parameters(project))
    if not bound.bindings:
        raise LorabelError(f"no control tag of project {project.id}'s label config is served: nothing can learn")
    precision = choose_precision(services.settings, choose_device(services.settings.for_training))
    tracking.check_tracker(services.settings.tracker)
    check_lora_kinds(services.settings)
    recipe = lora.Recipe.from_settings(services.settings, str(precision).removeprefix("torch."))
    training_runs.report(services.store, run, config={**asdict(recipe), "compared": comparison})
    services.adapter_folders.remove_leftovers(f"p{project.id}.v")
    heads = _headed_tags(services, project)
    with TemporaryDirectory(prefix="lorabel-") as scratch:
        attempts = {}
        for problem in bound.bindings:
            plan = examples.make_plan(
                problem,
                bound.config,
                selection.annotations,
                services.settings,
                recipe.seed + run.id,
                project.renamed_labels or {},
            )
            skipped = {**plan.skipped, **selection.skipped}
            plan = replace(plan, skipped=skipped, is_partial=selection.is_partial)
            has_head = problem.from_name in heads and _is_headed(plan)
            attempt = _train_problem(
                services, run, project, problem, plan, recipe, Path(scratch), has_head=has_head
            )
            attempts[problem.from_name] = replace(attempt, left_out=plan.left_out)
        _conclude(services, run, project, selection, attempts, Path(scratch))


def _is_headed(plan: examples.TrainingPlan) -> bool:
    """Whether a fitted head can answer what is asked: not where a model that writes was chosen since."""
    return bool(plan.train) and isinstance(plan.train[0].question, HEADED)


def _headed_tags(services: Services, project: Project) -> frozenset[str]:
    """The control tags that fitted heads answer."""
    with services.store.read() as session:
        live = versions.get_serving(session, project.id, project.live_number) if project.live_number else None
        return frozenset(answering_heads(session, project, live))


def _train_problem(
    services: Services,
    run: TrainingRun,
    project: Project,
    problem: Problem,
    plan: examples.TrainingPlan,
    recipe: lora.Recipe,
    scratch: Path,
    *,
    has_head: bool,
) -> Attempt:
    """Train one control tag's adapter into `scratch`. `has_head`: a fitted head answers for the tag."""
    if not plan.train:
        return Attempt(None, plan.skipped)
    question = plan.train[0].question
    family_type = family_for(question)
    if not family_type.has_lora:
        return Attempt(None, plan.skipped, decision=NO_LAYERS.format(family_type.name))
    if isinstance(question, HEADED_ALONE):
        return Attempt(None, plan.skipped, decision=BY_HEADS_ALONE)
    family = services.family(family_type)
    recipe = recipe_for(family, question, recipe, services.settings)
    helps = recipe.is_for_head or family.adapters_rival_heads
    if has_head and not helps and services.settings.lora_towers == "auto":
        return Attempt(None, plan.skipped, decision=HEAD_ALONE)
    live = _live_folder(services, project, problem, family, recipe)
    fault = peft_kinds.refusal(recipe.kind, family, lora.new_layers(family, question, recipe), live)
    fault = fault or private_training.refusal(services.settings, family, recipe, question)
    if fault is not None:
        return Attempt(None, plan.skipped, decision=fault)
    resolve = services.authorizations.resolver(project, services.settings)
    # Also where the head is not fitted yet, as in a run on annotations that were there before the project was
    # connected. Not where people went back to a version without heads.
    is_headless = live is not None or project.heads_restored_at is not None
    is_against_head = family.adapters_rival_heads and (has_head or not is_headless)
    is_for_new = training_runs.is_for_new_annotations(run)
    context = TrainingContext(live, resolve, is_for_new, is_against_head, project.id)
    folder = scratch / tag_folder(problem.from_name)
    report = _reporter(services, run, problem.from_name)
    parameters = {
        **asdict(recipe),
        "family": family.name,
        "base_model": family.source,
        "parent": version_name(project.id, project.live_number),
    }
    with tracking.tracked(
        services.settings, f"{run_name(run)}/{folder.name}", family.device, parameters
    ) as tracker:

        def report_step(progress: lora.Progress) -> None:
            report(progress)
            tracker.report(progress)

        attempt = make_candidate(services, problem, family, plan, context, recipe, folder, report_step)
        if attempt.judgement is not None:
            tracker.conclude(attempt.judgement, folder if attempt.candidate is not None else None)
    return attempt


def run_name(run: TrainingRun) -> str:
    """For example `p1.run7`; a run that is repeated after a kill has another name."""
    return f"p{run.project_id}.run{run.id}" + (f".attempt{run.attempt}" if run.attempt > 1 else "")


def _gather_annotations(services: Services, run: TrainingRun) -> tuple[Project, Selection, str]:
    """The project, the annotations of the run, and what the comparison with Label Studio found.

    If no annotation is new, look a second time after SECOND_LOOK_AFTER_S: START_TRAINING may arrive before the
    event of the annotation that caused it.
    """
    apply_during_run(services, run.project_id)
    comparison = reconcile(services, run.project_id)
    project, selection = _select(services, run)
    if not selection.new:
        time.sleep(SECOND_LOOK_AFTER_S)
        apply_during_run(services, run.project_id)
        project, selection = _select(services, run)
    return project, selection, comparison


def _select(services: Services, run: TrainingRun) -> tuple[Project, Selection]:
    settings = services.settings
    with services.store.read() as session:
        project = projects.get(session, run.project_id)
        return project, select_annotations(session, project, settings, settings.seed + run.id)


def _live_folder(
    services: Services, project: Project, problem: Problem, family: Family, recipe: lora.Recipe
) -> Path | None:
    """The folder of the control tag's live adapter.

    None if the base model is live, or if the adapter was trained on another base model than the present one, or
    not for a head where the recipe is for one.
    """
    if not project.live_number:
        return None
    with services.store.read() as session:
        live = versions.get(session, project.id, project.live_number)
    adapter, base_model = live.adapters.get(problem.from_name), live.base_models.get(problem.from_name)
    if adapter is None or (problem.from_name in versions.tags_beside_head(live)) != recipe.is_for_head:
        return None
    if base_model != family.source:
        log.warning("%s was trained on %s, not on %s: training begins anew", live.name, base_model, family.source)
        return None
    return services.adapter_folders.path(adapter)


def _conclude(
    services: Services,
    run: TrainingRun,
    project: Project,
    selection: Selection,
    attempts: dict[str, Attempt],
    scratch: Path,
) -> None:
    """Write the version's folder, then version, annotations and run in one transaction, if the run is still ours.

    A kill in between leaves a folder without a row. Its number is not used again, because the model server may
    have loaded the folder.
    """
    training_runs.report(services.store, run)
    candidates = new_version.candidates(attempts)
    version = new_version.write_version(services, run, project, attempts, scratch) if candidates else None
    left = frozenset[int]().union(*(attempt.left for attempt in attempts.values()))
    read = [annotation for annotation in selection.new if annotation.id not in left]
    outcomes = [] if version is None else make_outcomes(services, project, version, attempts, selection)
    with _emptied_if_lost(services, version), services.store.write() as session:
        project = projects.get(session, project.id, is_locked=True)
        if version is not None and version.parent != project.live_number:
            new_version.reject(
                version, f"{project.live_version} became live while this was made from v{version.parent}"
            )
        is_accepted = version is not None and version.state == VersionState.CANDIDATE
        learned = [annotation for annotation in read if is_accepted and _is_learned(annotation, attempts)]
        learned_ids = {annotation.id for annotation in learned}
        _mark(session, run, learned, run_id=run.id)
        tried = [annotation for annotation in read if annotation.id not in learned_ids]
        _mark(session, run, tried, tries=Annotation.tries + 1)
        due_at = None
        if _is_refused(attempts):
            due_at = training_runs.due_after_refusal(session, project.id, services.settings)
        summary = _summary(version, attempts, len(tried), due_at)
        training_runs.finish(session, run, RunState.FINISHED, **summary)
        if version is not None:
            session.add(version)
            task_outcomes.write(session, version, outcomes)
            if version.state == VersionState.CANDIDATE:
                versions.make_live(session, project, version.number)
                project_heads.count_all_again(project)
                # The heads are fitted on features of the new version's adapters from now on.
                project_heads.count_change(project)
            log.info("%s is %s: %s", version.name, version.state, version.metrics["decision"])
    if version is not None and version.state == VersionState.LIVE:
        new_version.keep_features(services, version, attempts)
        services.jobs.look_ahead(project.id)


@contextmanager
def _emptied_if_lost(services: Services, version: ModelVersion | None) -> Iterator[None]:
    """Empty the version's folder if the run or its project is gone: what it learned may be forgotten by now."""
    try:
        yield
    except (RunLostError, NotFoundError):
        if version is not None:
            with suppress(FileNotFoundError):
                services.adapter_folders.empty(version.name)
        raise


def _is_refused(attempts: dict[str, Attempt]) -> bool:
    """Whether the run has shown that training gains nothing yet: there are decisions, and all are against it."""
    judgements = [attempt.judgement for attempt in attempts.values() if attempt.judgement is not None]
    return bool(new_version.decisions(attempts)) and not any(judgement.is_accepted for judgement in judgements)


def _summary(
    version: ModelVersion | None, attempts: dict[str, Attempt], still_new: int, due_at: int | None
) -> dict[str, Any]:
    """The columns of the finished run's row. A version's decision also says when the next run is due.

    Args:
        still_new: how many of the new annotations that the run has read are new after it.
        due_at: from how many annotations on the next run is due; None if the run was not refused.
    """
    skipped, left_out = (
        {
            tag: {str(annotation_id): reason for annotation_id, reason in reasons_of(attempt).items()}
            for tag, attempt in attempts.items()
        }
        for reasons_of in (attrgetter("skipped"), attrgetter("left_out"))
    )
    outcome = {"skipped": skipped, "left_out": left_out, training_runs.STILL_NEW: still_new}
    next_run = ""
    if due_at is not None:
        outcome[training_runs.DUE_AT] = due_at
        next_run = f"; the next run waits for {due_at} annotations"
    if version is None:
        decisions = [f"{tag}: {decision}" for tag, decision in new_version.decisions(attempts).items()]
        return {
            "decision": ("; ".join(decisions) or NOTHING_TO_LEARN) + next_run,
            "metrics": {**new_version.metrics(attempts), **outcome},
        }
    version.metrics = {**version.metrics, "decision": version.metrics["decision"] + next_run}
    return {
        "version_number": version.number,
        "decision": version.metrics["decision"],
        "metrics": {**version.metrics, **outcome},
        "annotation_ids": version.trained_on,
    }


def _is_learned(annotation: Annotation, attempts: dict[str, Attempt]) -> bool:
    """Whether an accepted candidate has taken in the annotation: its task is trained on, or held out.

    Also True for an annotation that does not count beside another one of its task, such as the ground truth.
    """
    return any(
        attempt.candidate is not None
        and attempt.candidate.judgement.is_accepted
        and annotation.task_id in attempt.candidate.task_ids
        and annotation.id not in attempt.skipped
        for attempt in attempts.values()
    )


def _mark(session: Session, run: TrainingRun, annotations: list[Annotation], **columns: Any) -> None:
    """Set columns of annotations of a run. An annotation that was changed during the run is left as it is."""
    parameters = [
        {"annotation_id": annotation.id, "read_updated_at": annotation.updated_at} for annotation in annotations
    ]
    is_unchanged = (
        Annotation.project_id == run.project_id,
        Annotation.id == bindparam("annotation_id"),
        Annotation.updated_at == bindparam("read_updated_at"),
    )
    if parameters:
        session.connection().execute(update(Annotation).where(*is_unchanged).values(**columns), parameters)


def _reporter(services: Services, run: TrainingRun, from_name: str) -> Callable[[lora.Progress], None]:
    """A callback that writes the progress to the run's row, every REPORT_EVERY_S and after the last step."""
    reported_at = 0.0
    curve = LossCurve()

    def report(progress: lora.Progress) -> None:
        nonlocal reported_at
        curve.add(progress.step, progress.loss)
        if time.monotonic() - reported_at < REPORT_EVERY_S and progress.step < progress.steps:
            return
        reported_at = time.monotonic()
        run.losses = {**(run.losses or {}), from_name: curve.points()}
        training_runs.report(
            services.store,
            run,
            step=progress.step,
            steps=progress.steps,
            loss=progress.loss,
            losses=run.losses,
            seconds_left=progress.seconds_left,
        )

    return report
