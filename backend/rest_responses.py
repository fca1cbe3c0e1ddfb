"""JSON records that the REST API answers with: projects, versions, runs, annotations, events, search and label
errors.

A record shows a row of the database, without its secrets. `http_bodies.py` has the bodies of requests.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError, ValidatorFunctionWrapHandler, WrapValidator
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from lorabel.database import instructions, privacy_ledger, project_heads, training_runs
from lorabel.database.shown_predictions import Shown
from lorabel.database.tables import (
    ModelVersion,
    Project,
    TrainingRun,
    UnreadableTask,
    VersionState,
    version_name,
)
from lorabel.errors import LabelConfigError
from lorabel.problems.binding import BoundConfig, bind


def _none_if_invalid(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    try:
        return validate(value)
    except ValidationError:
        return None


# A user's or task's id. Older versions stored whatever an event had in its place, which is shown as null.
StoredId = Annotated[int | None, WrapValidator(_none_if_invalid)]


class Record(BaseModel):
    """A frozen JSON record, which can be made from a row or a dataclass with the same fields."""

    model_config = ConfigDict(frozen=True, from_attributes=True, ser_json_inf_nan="null")


class BindingRecord(Record):
    """A control tag and the problem that serves it."""

    from_name: str
    to_name: str
    problem: str


class UnclaimedRecord(Record):
    """A control tag that no problem serves, and why."""

    name: str
    tag: str
    reason: str


class ServedRecord(Record):
    """The control tags of a label config: those that a problem serves, and those that are left to people."""

    bindings: list[BindingRecord]
    unclaimed: list[UnclaimedRecord]

    @classmethod
    def of(cls, bound: BoundConfig) -> Self:
        """The control tags of a label config: served and not served."""
        return cls(
            bindings=[
                BindingRecord(from_name=binding.from_name, to_name=binding.to_name, problem=type(binding).__name__)
                for binding in bound.bindings
            ],
            unclaimed=[
                UnclaimedRecord(name=unclaimed.control.name, tag=unclaimed.control.tag, reason=unclaimed.reason)
                for unclaimed in bound.unclaimed
            ],
        )


class UnreadableTaskRecord(Record):
    """A task that the last prediction could not read. `is_permanent`: asking again cannot help."""

    task_id: int
    reason: str
    is_permanent: bool
    seen_at: datetime


class ProjectSummary(Record):
    """A project in the list of projects. `new_annotations`: annotations that no training run has taken yet.
    `unread_tasks`: tasks that the last prediction could not read. `id` is the project's id here; `label_studio_id`
    is its id in its Label Studio, which created it at `label_studio_created_at` (null if that is not known)."""

    id: int
    label_studio_id: int
    label_studio_created_at: datetime | None
    live_version: str
    is_deleted: bool
    new_annotations: int
    unread_tasks: int
    created_at: datetime
    updated_at: datetime


class SpentRecord(Record):
    """What a project has spent of its budget for differential privacy, `budget` (DP_EPSILON), in `heads` fits of
    heads and training runs of `adapters`: an annotated task is protected by `epsilon` with `delta`. `has_rest`:
    whether the budget allows another like the newest."""

    epsilon: float
    delta: float
    budget: float
    heads: int
    adapters: int
    has_rest: bool
    newest_at: datetime


class ProjectRecord(ProjectSummary):
    """A project with its label config. `label_config_error` says why the label config cannot be read, in which
    case nothing is predicted. `unread`: the tasks that the last prediction could not read. `annotations_left_out`:
    annotations that fitted heads leave out, since people made the live version live."""

    hostname: str | None
    label_studio_url: str | None
    extra_params: dict[str, Any] | None
    label_config: str | None
    label_config_error: str | None
    bindings: list[BindingRecord]
    unclaimed: list[UnclaimedRecord]
    annotations_left_out: int
    unread: list[UnreadableTaskRecord]
    privacy: SpentRecord | None


class VersionRecord(Record):
    """A version of a project's model. `metrics` has the metrics of the `candidate` and of the version that was
    `live`, by control tag, measured on the same held-out or cross-validated tasks. `trained_on`: annotation ids.
    `shown`: how many of its predictions annotators were shown, of which they submitted `accepted` unchanged.
    `adapters_removed_at`: when the adapters were removed, since the version was rejected long ago; else null."""

    version: str
    state: str
    parent: str | None
    metrics: dict[str, Any]
    base_models: dict[str, str]
    adapters: dict[str, str]
    trained_on: list[int]
    run_id: int | None
    created_at: datetime
    promoted_at: datetime | None
    adapters_removed_at: datetime | None = None
    shown: int
    accepted: int

    @classmethod
    def of(cls, row: ModelVersion, shown: Mapping[str, Shown]) -> Self:
        """The record of a version that was trained.

        Args:
            shown: by name of a version.
        """
        others = {"version", "parent", *Shown._fields}
        return cls(
            version=row.name,
            parent=version_name(row.project_id, row.parent),
            **{name: getattr(row, name) for name in cls.model_fields if name not in others},
            **shown.get(row.name, Shown())._asdict(),
        )

    @classmethod
    def of_base(cls, project: Project, shown: Mapping[str, Shown]) -> Self:
        """The record of `v0`, the base models without adapters, which has no row in the database."""
        name = version_name(project.id, 0)
        return cls(
            version=name,
            **shown.get(name, Shown())._asdict(),
            state=VersionState.RETIRED if project.live_number else VersionState.LIVE,
            parent=None,
            metrics={},
            base_models={},
            adapters={},
            trained_on=[],
            run_id=None,
            created_at=project.created_at,
            promoted_at=None,
        )


class VersionDetails(VersionRecord):
    """A version. `head_annotation_ids`: by control tag, the annotations that the version's fitted head was fitted
    on; the list of versions has only their number, in `metrics.heads`."""

    head_annotation_ids: dict[str, list[int]] = {}

    @classmethod
    def of(cls, row: ModelVersion, shown: Mapping[str, Shown]) -> Self:
        """As `VersionRecord.of`. The row's session is open."""
        record = VersionRecord.of(row, shown).model_dump()
        return cls(**record, head_annotation_ids=row.head_annotation_ids or {})


class RunRecord(Record):
    """A training run. `step` of `steps`, `loss` and `seconds_left` describe a running one. `decision` says in
    words what became of the version, and `annotation_ids` are those that the run has taken. `metrics.over_head`
    has by control tag what LoRA gained over the fitted head alone, cross-validated: by how much the log-loss is
    lower, the standard error of that, and by how much the primary metric is higher."""

    id: int
    state: str
    reason: str
    attempt: int
    step: int
    steps: int
    loss: float | None
    seconds_left: float | None
    config: dict[str, Any] | None
    metrics: dict[str, Any] | None
    annotation_ids: list[int] | None
    version: str | None
    decision: str | None
    error: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    @classmethod
    def of(cls, row: TrainingRun) -> Self:
        """The record of a training run."""
        number = row.version_number
        return cls(
            version=None if number is None else version_name(row.project_id, number),
            **{name: getattr(row, name) for name in cls.model_fields if name != "version"},
        )


class AnnotationRecord(Record):
    """An annotation in its newest known state. `run_id`: the training run that took it, null while it is new.

    `completed_by`: id of the annotator in Label Studio. `lead_time_s`: seconds that the annotator had the task
    open. `prediction_id`: the prediction that the annotator was shown, null if none was; its result, score and
    version are null until Label Studio has told them. `is_accepted`: whether the annotation says the same as this
    prediction; null if that is not known, or if the task was skipped."""

    id: int
    task_id: StoredId
    result: Any
    was_cancelled: bool
    ground_truth: bool
    completed_by: StoredId
    lead_time_s: float | None
    prediction_id: int | None
    prediction_version: str | None
    prediction_score: float | None
    prediction_result: list[Any] | None
    is_accepted: bool | None
    is_deleted: bool
    run_id: int | None
    updated_at: datetime | None
    received_at: datetime


class EventRecord(Record):
    """A webhook event, without its payload, which contains the project's token."""

    id: int
    action: str
    project_id: int | None
    state: str
    error: str | None
    received_at: datetime
    applied_at: datetime | None


class ProjectList(Record):
    """All projects."""

    projects: list[ProjectSummary]


class VersionList(Record):
    """The versions of a project, the newest first."""

    live_version: str
    versions: list[VersionRecord]


class RunList(Record):
    """The training runs of a project, the newest first."""

    runs: list[RunRecord]


class AnnotationList(Record):
    """A page of a project's annotations. `total`: number of annotations on all pages."""

    total: int
    annotations: list[AnnotationRecord]


class EventList(Record):
    """A page of events, the newest first. `total`: number of events on all pages."""

    total: int
    events: list[EventRecord]


class HitRecord(Record):
    """A task that a search found. `similarity`: cosine of its vector with the query's, in [-1, 1]. `url`: its page
    in Label Studio, null if we do not know Label Studio's address."""

    task_id: int
    similarity: float
    url: str | None


class SearchRecord(Record):
    """The result of a search, the most similar task first. `indexed`: number of tasks that were compared.
    `missing`: number of tasks that were not, since they are not embedded yet or unreadable; null if Label Studio
    does not tell how many tasks there are."""

    hits: list[HitRecord]
    indexed: int
    missing: int | None


class Instructions(Record):
    """What a model that writes is told, by control tag. `by_hand` goes before `kept`, and the extra params of the
    project go before both."""

    by_hand: dict[str, str]
    kept: dict[str, str]

    @classmethod
    def of(cls, project: Project) -> Self:
        """Those of a project."""
        stored = project.instructions or {}
        return cls(by_hand=stored.get(instructions.BY_HAND, {}), kept=stored.get(instructions.KEPT, {}))


class LiveVersion(Record):
    """The version that is live now."""

    live_version: str


def summarize(session: Session, project: Project) -> ProjectSummary:
    """The record of a project in the list of projects."""
    return ProjectSummary(**_summary(session, project))


def describe(session: Session, project: Project) -> ProjectRecord:
    """The record of a single project."""
    spent = privacy_ledger.spent(session, project.id)
    unreadable_tasks = (
        select(UnreadableTask).where(UnreadableTask.project_id == project.id).order_by(UnreadableTask.task_id)
    )
    return ProjectRecord(
        **_summary(session, project),
        hostname=project.hostname,
        label_studio_url=project.label_studio_url,
        extra_params=project.extra_params,
        label_config=project.label_config,
        **_served(project.label_config),
        annotations_left_out=project_heads.count_left_out(session, project),
        unread=[UnreadableTaskRecord.model_validate(row) for row in session.scalars(unreadable_tasks)],
        privacy=None if spent is None else SpentRecord.model_validate(spent),
    )


def _summary(session: Session, project: Project) -> dict[str, Any]:
    is_unreadable = UnreadableTask.project_id == project.id
    return {
        "id": project.id,
        "label_studio_id": project.label_studio_id,
        "label_studio_created_at": project.label_studio_created_at,
        "live_version": project.live_version,
        "is_deleted": project.is_deleted,
        "new_annotations": training_runs.count_new(session, [project.id])[project.id],
        "unread_tasks": session.scalar(select(func.count()).select_from(UnreadableTask).where(is_unreadable)),
        "created_at": project.created_at,
        "updated_at": project.updated_at,
    }


def _served(label_config: str | None) -> dict[str, Any]:
    if label_config is None:
        return {"label_config_error": None, "bindings": [], "unclaimed": []}
    try:
        return {"label_config_error": None, **dict(ServedRecord.of(bind(label_config)))}
    except LabelConfigError as error:
        return {"label_config_error": str(error), "bindings": [], "unclaimed": []}
