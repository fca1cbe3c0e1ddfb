"""Makes the version of a run: its row, its folder with adapters and heads, and what its heads are fitted on."""

import logging
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from lorabel.database import privacy_ledger, project_heads, projects, task_features, version_scores, versions
from lorabel.database.adapter_folders import HEAD_FILE, tag_folder
from lorabel.database.tables import (
    ModelVersion,
    Project,
    ProjectHead,
    TrainingRun,
    VersionState,
    now,
    version_name,
)
from lorabel.errors import ConflictError, NotFoundError
from lorabel.families.encoders.heads.fit import Example, fit_head
from lorabel.families.encoders.heads.parts import has_parts
from lorabel.feature_contracts import Features, FeaturesInput
from lorabel.inference import promotion
from lorabel.media.fetching import digest
from workers.active_adapter import ACTIVE
from workers.attempt import Attempt, Candidate
from workers.services import Services

log = logging.getLogger(__name__)


def write_version(
    services: Services, run: TrainingRun, project: Project, attempts: dict[str, Attempt], scratch: Path
) -> ModelVersion:
    """Make the version and write its folder. A version whose new adapters the model server refuses is rejected."""
    with services.store.read() as session:
        last_number = services.adapter_folders.last_number(project.id)
        number = max(versions.next_number(session, project.id), last_number + 1)
        version = _version(session, project, number, run, attempts)
    heads = {
        **_heads_of_now(services, project, version),
        **_heads_of_version(project, version, candidates(attempts)),
    }
    services.adapter_folders.write(version.name, lambda folder: _copy(scratch, heads, folder))
    if version.state == VersionState.CANDIDATE:
        new_adapters = {tag: name for tag, name in version.adapters.items() if name.startswith(f"{version.name}/")}
        try:
            promotion.preload(services.model_client, new_adapters, versions.families(version))
        except (NotFoundError, ConflictError) as error:
            reject(version, str(error))
    return version


def keep_features(services: Services, version: ModelVersion, attempts: dict[str, Attempt]) -> None:
    """Write what the heads are to be fitted on, so that the model server need not compute it for each task.

    Not if it computes with weights of 8 bits: features of runs are of another precision.
    """
    if services.settings.serves_int8:
        return
    for tag, candidate in candidates(attempts).items():
        # LoRA is judged by the frames of videos; their heads also have features of what is heard in them.
        is_of_parts = services.settings.hears_videos and any(has_parts(e.question) for e, _ in candidate.features)
        if candidate.judgement.is_accepted and candidate.is_beside_head and not is_of_parts:
            adapter = version.adapters[tag]
            questions = {
                example.task_id: task_features.question_digest(FeaturesInput.of(example.question), adapter)
                for example, _ in candidate.features
            }
            answers: dict[int, Features | str] = {
                example.task_id: _with_adapter(features, adapter) for example, features in candidate.features
            }
            task_features.write(services.store, version.project_id, tag, questions, answers)


def _with_adapter(features: Features, adapter: str) -> Features:
    """Features that were computed with the candidate, under the name that its adapter has got."""
    return features.model_copy(update={"space": features.space.removesuffix(ACTIVE) + adapter})


def reject(version: ModelVersion, reason: str) -> None:
    version.state = VersionState.REJECTED
    version.metrics = {**version.metrics, "decision": f"{reason}; {version.metrics['decision']}"}


def _version(
    session: Session, project: Project, number: int, run: TrainingRun, attempts: dict[str, Attempt]
) -> ModelVersion:
    """The new version: for each control tag the candidate's adapter if it was accepted, else the live adapter.

    If no candidate was accepted, the version is rejected and has the candidates' adapters.
    """
    live = versions.get(session, project.id, project.live_number) if project.live_number else None
    name = version_name(project.id, number)
    of_tags = candidates(attempts)
    accepted = [tag for tag, candidate in of_tags.items() if candidate.judgement.is_accepted]
    changed = accepted or list(of_tags)
    calibrations = {tag: of_tags[tag].calibration for tag in changed}
    spent = privacy_ledger.spent(session, project.id)
    privacy = {} if spent is None else {privacy_ledger.VERSION_PRIVACY: spent.as_json()}
    return ModelVersion(
        project_id=project.id,
        number=number,
        parent=project.live_number,
        state=VersionState.CANDIDATE if accepted else VersionState.REJECTED,
        base_models={
            **(live.base_models if live else {}),
            **{tag: of_tags[tag].base_model for tag in changed},
        },
        adapters={
            **(live.adapters if live else {}),
            **{tag: f"{name}/{tag_folder(tag)}" for tag in changed},
        },
        metrics={
            **metrics(attempts),
            **privacy,
            "loss": {tag: candidate.loss for tag, candidate in of_tags.items()},
            "families": {
                **(versions.families(live) if live else {}),
                **{tag: of_tags[tag].family for tag in changed},
            },
            "calibration": {
                **(live.metrics.get("calibration", {}) if live else {}),
                **{
                    tag: None if calibration is None else asdict(calibration)
                    for tag, calibration in calibrations.items()
                },
            },
            versions.BESIDE_HEAD: sorted(
                {tag for tag in (versions.tags_beside_head(live) if live else ()) if tag not in changed}
                | {tag for tag in changed if of_tags[tag].is_beside_head}
            ),
            versions.IN_PLACE_OF_HEAD: sorted(
                {tag for tag in (versions.tags_in_place_of_head(live) if live else ()) if tag not in changed}
                | {tag for tag in changed if of_tags[tag].rivals_head}
            ),
            "decision": "; ".join(f"{tag}: {decision}" for tag, decision in decisions(attempts).items()),
        },
        trained_on=sorted({annotation_id for tag in changed for annotation_id in of_tags[tag].trained_on}),
        run_id=run.id,
    )


def candidates(attempts: dict[str, Attempt]) -> dict[str, Candidate]:
    return {tag: attempt.candidate for tag, attempt in attempts.items() if attempt.candidate is not None}


def metrics(attempts: dict[str, Attempt]) -> dict[str, Any]:
    """The metrics of candidates and of what was live, and the gains over heads alone, by control tag."""
    judgements = {tag: attempt.judgement for tag, attempt in attempts.items() if attempt.judgement is not None}
    gains = {tag: judgement.over_head for tag, judgement in judgements.items() if judgement.over_head is not None}
    return {
        "candidate": {tag: judgement.candidate.values for tag, judgement in judgements.items()},
        "live": {tag: judgement.live.values for tag, judgement in judgements.items()},
        version_scores.PRIMARY: {tag: judgement.candidate.primary for tag, judgement in judgements.items()},
        versions.OVER_HEAD: {tag: {**asdict(gain), "is_sure": gain.is_sure} for tag, gain in gains.items()},
    }


def decisions(attempts: dict[str, Attempt]) -> dict[str, str]:
    """Why each control tag has a new adapter or none, where there is anything to say."""
    decisions = {
        tag: attempt.decision if attempt.judgement is None else attempt.judgement.decision
        for tag, attempt in attempts.items()
    }
    return {tag: decision for tag, decision in decisions.items() if decision}


def _heads_of_now(services: Services, project: Project, version: ModelVersion) -> dict[str, bytes]:
    """from_name -> the file of the head that answers now; what it was fitted on is noted in the version's row."""
    with services.store.read() as session:
        project = projects.get(session, project.id)
        heads = project_heads.answering_with_annotation_ids(session, project)
    try:
        files = {
            tag: services.adapter_folders.read_head(f"{row.folder}/{tag_folder(tag)}")
            for tag, row in heads.items()
        }
    except NotFoundError as error:
        log.warning("%s has no heads: %s", version.name, error)
        return {}
    project_heads.store_with(version, project, heads)
    compared_with = versions.tags_beside_head(version) | versions.tags_in_place_of_head(version)
    compared_without = heads.keys() & version.metrics["candidate"].keys() - compared_with
    if compared_without:
        tags = ", ".join(sorted(compared_without))
        version.metrics["decision"] += f"; compared without heads, which answer for {tags}"
    return files


def _heads_of_version(
    project: Project, version: ModelVersion, candidates: dict[str, Candidate]
) -> dict[str, bytes]:
    """from_name -> the file of the head that is fitted with the version's new adapter."""
    files: dict[str, bytes] = {}
    rows: dict[str, ProjectHead] = {}
    for tag, candidate in candidates.items():
        if not (candidate.judgement.is_accepted and candidate.is_beside_head):
            continue
        adapter = version.adapters[tag]
        examples = [
            Example.of(example.question, _with_adapter(features, adapter), example.target)
            for example, features in candidate.features
        ]
        head = fit_head(examples, _with_adapter(candidate.features[0][1], adapter).space)
        if head is None:
            continue
        files[tag] = head.to_bytes()
        rows[tag] = ProjectHead(
            labels=task_features.labels_digest(FeaturesInput.of(examples[0].question)),
            digest=digest(files[tag]),
            adapter=adapter,
            annotation_ids=sorted(candidate.trained_on),
            fitted_at=now(),
        )
    project_heads.store_with(version, project, rows)
    return files


def _copy(scratch: Path, heads: dict[str, bytes], folder: Path) -> None:
    for adapter in scratch.iterdir():
        shutil.copytree(adapter, folder / adapter.name)
    for tag, file in heads.items():
        (folder / tag_folder(tag)).mkdir(exist_ok=True)
        (folder / tag_folder(tag) / HEAD_FILE).write_bytes(file)
