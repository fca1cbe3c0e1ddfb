"""What the REST API says about projects, versions, runs, annotations and events."""

from datetime import datetime
from typing import Any, Self

from pydantic import BaseModel, ConfigDict
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from lorabel.database.tables import (
    Annotation,
    BulkRun,
    ModelVersion,
    Project,
    TrainingRun,
    UnreadableTask,
    VersionState,
    version_name,
)
from lorabel.errors import LabelConfigError
from lorabel.problems.binding import BoundConfig, bind


class Record(BaseModel):
    model_config = ConfigDict(frozen=True, from_attributes=True)


class BindingRecord(Record):
    """A control tag and the problem that serves it."""

    from_name: str
    to_name: str
    problem: str


class UnclaimedRecord(Record):
    """A control tag that nobody serves, and why."""

    name: str
    tag: str
    reason: str


class ServedRecord(Record):
    """What becomes of a label config's control tags."""

    bindings: list[BindingRecord]
    unclaimed: list[UnclaimedRecord]

    @classmethod
    def of(cls, bound: BoundConfig) -> Self:
        return cls(
            bindings=[
                BindingRecord(from_name=one.from_name, to_name=one.to_name, problem=type(one).__name__)
                for one in bound.bindings
            ],
            unclaimed=[
                UnclaimedRecord(name=one.control.name, tag=one.control.tag, reason=one.reason)
                for one in bound.unclaimed
            ],
        )


class UnreadRecord(Record):
    task_id: int
    reason: str
    is_permanent: bool
    seen_at: datetime


class ProjectSummary(Record):
    id: int
    live_version: str
    is_deleted: bool
    new_annotations: int
    unread_tasks: int
    created_at: datetime
    updated_at: datetime


class ProjectRecord(ProjectSummary):
    """`label_config_error` says why nothing is predicted, where the label config cannot be read."""

    hostname: str | None
    label_studio_url: str | None
    extra_params: dict[str, Any] | None
    label_config: str | None
    label_config_error: str | None
    bindings: list[BindingRecord]
    unclaimed: list[UnclaimedRecord]
    unread: list[UnreadRecord]


class VersionRecord(Record):
    """`metrics` has `candidate` and `live` by control tag, measured on the same held-out tasks."""

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

    @classmethod
    def of(cls, row: ModelVersion) -> Self:
        return cls(
            version=row.name,
            parent=version_name(row.project_id, row.parent),
            **{name: getattr(row, name) for name in cls.model_fields if name not in ("version", "parent")},
        )

    @classmethod
    def of_base(cls, project: Project) -> Self:
        """`v0`, the base models without adapters, which needs no row."""
        return cls(
            version=version_name(project.id, 0),
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


class RunRecord(Record):
    """`step` of `steps`, `loss` and `seconds_left` while it runs; `decision` in words afterwards."""

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
        number = row.version_number
        return cls(
            version=None if number is None else version_name(row.project_id, number),
            **{name: getattr(row, name) for name in cls.model_fields if name != "version"},
        )


class FailureRecord(Record):
    task_id: int
    reason: str


class BulkRunRecord(Record):
    """`done`, `skipped` and `failed` tasks of `total`, up to task `cursor`; `failures` are the first 100.

    `label_studio_s`: seconds spent in Label Studio. `strategy`: of a run that puts open tasks into an order.
    """

    id: int
    state: str
    reason: str
    only_unlabeled: bool
    task_ids: list[int] | None
    strategy: str | None
    version: str | None
    cursor: int
    total: int | None
    done: int
    skipped: int
    failed: int
    failures: list[FailureRecord]
    label_studio_s: float
    attempt: int
    error: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    @classmethod
    def of(cls, row: BulkRun) -> Self:
        number = row.version_number
        return cls(
            version=None if number is None else version_name(row.project_id, number),
            **{name: getattr(row, name) for name in cls.model_fields if name != "version"},
        )


class AnnotationRecord(Record):
    """The newest known state; `run_id` is the run that took it, null while it is new."""

    id: int
    task_id: int | None
    result: Any
    was_cancelled: bool
    ground_truth: bool
    completed_by: int | None
    is_deleted: bool
    run_id: int | None
    updated_at: datetime | None
    received_at: datetime


class EventRecord(Record):
    """Without the payload, which holds the project's token."""

    id: int
    action: str
    project_id: int | None
    state: str
    error: str | None
    received_at: datetime
    applied_at: datetime | None


class ProjectList(Record):
    projects: list[ProjectSummary]


class VersionList(Record):
    live_version: str
    versions: list[VersionRecord]


class RunList(Record):
    runs: list[RunRecord]


class BulkRunList(Record):
    runs: list[BulkRunRecord]


class AnnotationList(Record):
    total: int
    annotations: list[AnnotationRecord]


class EventList(Record):
    total: int
    events: list[EventRecord]


class HitRecord(Record):
    """`similarity`: the cosine, in [-1, 1]. `url`: the task in Label Studio, if we know its address."""

    task_id: int
    similarity: float
    url: str | None


class SearchRecord(Record):
    """The most similar task first, out of `indexed`. `missing`: tasks that could not be compared (not embedded
    yet, or unreadable); null where Label Studio does not say how many there are."""

    hits: list[HitRecord]
    indexed: int
    missing: int | None


class LabelErrorRecord(Record):
    """An annotation that is probably wrong: `score` from 0 (certainly) to 1. Where several labels may fit, `given`
    is empty for one that is missing, and `suggested` for one that is too much."""

    from_name: str
    task_id: int
    annotation_id: int
    given: str
    suggested: str
    score: float


class LabelErrorList(Record):
    """The worst first. `checked`: annotations looked at; `left_out`: which labels were not, and why."""

    checked: int
    left_out: list[str]
    errors: list[LabelErrorRecord]


class LiveVersion(Record):
    live_version: str


def summarize(session: Session, project: Project) -> ProjectSummary:
    return ProjectSummary(**_summary(session, project))


def describe(session: Session, project: Project) -> ProjectRecord:
    unread = select(UnreadableTask).where(UnreadableTask.project_id == project.id).order_by(UnreadableTask.task_id)
    return ProjectRecord(
        **_summary(session, project),
        hostname=project.hostname,
        label_studio_url=project.label_studio_url,
        extra_params=project.extra_params,
        label_config=project.label_config,
        **_served(project.label_config),
        unread=[UnreadRecord.model_validate(row) for row in session.scalars(unread)],
    )


def _summary(session: Session, project: Project) -> dict[str, Any]:
    is_new = (
        Annotation.project_id == project.id,
        Annotation.run_id.is_(None),
        Annotation.is_deleted.is_(False),
        Annotation.was_cancelled.is_(False),
    )
    is_unread = UnreadableTask.project_id == project.id
    return {
        "id": project.id,
        "live_version": project.live_version,
        "is_deleted": project.is_deleted,
        "new_annotations": session.scalar(select(func.count(Annotation.id)).where(*is_new)),
        "unread_tasks": session.scalar(select(func.count()).select_from(UnreadableTask).where(is_unread)),
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
