"""The database tables. What is not in them is not known: Redis only carries jobs that name their rows.

An id of a project, task, annotation or user is Label Studio's. All times are in UTC. The columns change only
together with a migration (`lorabel/database/migrations`).
"""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    ForeignKey,
    Index,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from lorabel.database.columns import UtcDateTime, index_of_usable

Json = dict[str, Any]


def now() -> datetime:
    return datetime.now(UTC)


class EventState(StrEnum):
    """What became of a webhook event.

    `stale`: it changed nothing, since the database already had the same or a newer state. `ignored`: its action is
    unknown, or it belongs to no project with a known label config. `failed`: it could not be applied; the reason
    is in `Event.error`.
    """

    PENDING = "pending"
    APPLIED = "applied"
    STALE = "stale"
    IGNORED = "ignored"
    FAILED = "failed"


class VersionState(StrEnum):
    """State of a model version.

    `candidate`: trained and not live yet. `live`: predicts now; at most one version of a project is. `rejected`:
    scored worse than the live version. `retired`: was live once.
    """

    CANDIDATE = "candidate"
    LIVE = "live"
    REJECTED = "rejected"
    RETIRED = "retired"


class RunState(StrEnum):
    """State of a training run or bulk run; the last three are final."""

    QUEUED = "queued"
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Table(DeclarativeBase):
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy reads this class attribute
        datetime: UtcDateTime,
        Json: JSON,
        list[int]: JSON,
        dict[str, str]: JSON,
        list[Json]: JSON,
    }


class Event(Table):
    """A webhook request as it was received.

    Attributes:
        action: the event's name in Label Studio, e.g. `ANNOTATION_CREATED`.
        project_id: None if the request names no project.
        payload: the raw JSON body.
        applied_at: when the event was applied, or was found to be stale, ignored or failed.
    """

    __tablename__ = "event"
    id: Mapped[int] = mapped_column(primary_key=True)
    received_at: Mapped[datetime] = mapped_column(default=now)
    action: Mapped[str]
    project_id: Mapped[int | None] = mapped_column(index=True)
    payload: Mapped[str] = mapped_column(Text)
    state: Mapped[str] = mapped_column(default=EventState.PENDING)
    applied_at: Mapped[datetime | None]
    error: Mapped[str | None] = mapped_column(Text)

    __table_args__ = (Index("event_state", "state", "id"),)


class Project(Table):
    """A Label Studio project.

    Attributes:
        label_config: XML of the labeling interface; None until a request or event has brought it.
        hostname: address of Label Studio in the last `/setup` request. Nobody has checked it.
        setup_token: token in the last `/setup` request, a legacy one.
        extra_params: the "extra params" that `/setup` sends; they override the training policy of the settings.
        label_studio_url: address of Label Studio, as given to `lorabel connect`.
        api_key: token for Label Studio's API, as given to `lorabel connect`.
        backend_url: our own address as Label Studio sees it, as given to `lorabel connect`.
        live_number: n of the live version `p<id>.v<n>`; 0 for the base models.
        compared_at: Label Studio's time at the start of the last comparison; the next reads what changed since.
        compared_fully_at: when all annotations were last compared.
        uncounted: how many more annotations Label Studio counted after that comparison than there are here.
    """

    __tablename__ = "project"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    label_config: Mapped[str | None] = mapped_column(Text)
    hostname: Mapped[str | None]
    setup_token: Mapped[str | None]
    extra_params: Mapped[Json | None]
    label_studio_url: Mapped[str | None]
    api_key: Mapped[str | None]
    backend_url: Mapped[str | None]
    live_number: Mapped[int] = mapped_column(default=0)
    compared_at: Mapped[datetime | None]
    compared_fully_at: Mapped[datetime | None]
    uncounted: Mapped[int | None]
    is_deleted: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[datetime] = mapped_column(default=now)
    updated_at: Mapped[datetime] = mapped_column(default=now, onupdate=now)

    @property
    def live_version(self) -> str:
        return version_name(self.id, self.live_number)


class Annotation(Table):
    """The newest known state of an annotation.

    The row of a deleted annotation stays: a creation event may arrive late. Label Studio never uses an id twice.

    Attributes:
        task_id: None if a deletion is all that we know of the annotation; so are `task_data` and `result`.
        result: Label Studio's list of regions.
        was_cancelled: whether the annotator skipped the task.
        completed_by: user id of the annotator.
        updated_at: time of this state in Label Studio; a state that is not newer is not applied.
        received_at: when this state reached us.
        run_id: the training run whose version became live and learned from this state, or holds its task out; None
            while it is new.
        tries: how many finished runs have read this state without learning from it.
        times_applied: how many states of this annotation were applied, its deletion included.
    """

    __tablename__ = "annotation"
    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    project_id: Mapped[int]
    task_id: Mapped[int | None] = mapped_column(BigInteger)
    task_data: Mapped[Json | None]
    result: Mapped[Any | None] = mapped_column(JSON)
    was_cancelled: Mapped[bool] = mapped_column(default=False)
    ground_truth: Mapped[bool] = mapped_column(default=False)
    completed_by: Mapped[int | None]
    updated_at: Mapped[datetime | None]
    received_at: Mapped[datetime] = mapped_column(default=now)
    is_deleted: Mapped[bool] = mapped_column(default=False)
    run_id: Mapped[int | None]
    tries: Mapped[int] = mapped_column(default=0, server_default="0")
    times_applied: Mapped[int] = mapped_column(default=0)

    __table_args__ = (
        Index("annotation_task", "project_id", "task_id"),
        index_of_usable("annotation_new", ("project_id", "tries", "received_at", "id"), "run_id IS NULL"),
        index_of_usable("annotation_learned", ("project_id", "id", "task_id"), "run_id IS NOT NULL"),
    )


class DeletedTask(Table):
    """A task that was deleted in Label Studio: annotation events that arrive later are not used for training."""

    __tablename__ = "deleted_task"
    task_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    project_id: Mapped[int]


class ModelVersion(Table):
    """A model version `p<project>.v<number>`: a set of adapters, one per control tag.

    The version 0, the base models without adapters, has no row.

    Attributes:
        parent: number of the version that was live when this one was trained.
        base_models: from_name -> hub id or folder of the base model that the adapter was trained on.
        adapters: from_name -> the adapter's name, e.g. `p12.v3/label`. A control tag for which nothing better was
            trained keeps the adapter of the version before, so the name may have a lower number.
        metrics: `candidate` and `live` hold scores by from_name, measured on the same held-out tasks;
            `calibration` holds temperatures, and `families` names of families, by from_name; `decision` is a
            sentence that says why the version was promoted or rejected.
        trained_on: annotation ids.
        run_id: the training run that made the version.
        promoted_at: when the version last became live; None if it never was.
    """

    __tablename__ = "model_version"
    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("project.id"))
    number: Mapped[int]
    parent: Mapped[int]
    state: Mapped[str]
    base_models: Mapped[dict[str, str]]
    adapters: Mapped[dict[str, str]]
    metrics: Mapped[Json]
    trained_on: Mapped[list[int]]
    run_id: Mapped[int | None]
    created_at: Mapped[datetime] = mapped_column(default=now)
    promoted_at: Mapped[datetime | None]

    __table_args__ = (UniqueConstraint("project_id", "number"),)

    @property
    def name(self) -> str:
        return version_name(self.project_id, self.number)


class TrainingRun(Table):
    """A training run. A project has at most one queued run and at most one running run.

    Attributes:
        reason: who or what asked for the run, in words.
        attempt: 1, and one more each time the run is queued again because its worker was killed.
        step: optimizer steps done, of `steps`.
        loss: training loss of the last step.
        seconds_left: estimate of the time until the run ends; None when it has ended.
        config: the training recipe, and under `compared` what the comparison with Label Studio found.
        metrics: the metrics of the version that the run made. `skipped` has by from_name and annotation id why an
            annotation was not used; `still_new` is how many new ones it read that are still new.
        annotation_ids: the annotations that the version was trained on.
        version_number: number of the version that the run made; None if it made none.
        decision: what became of that version and why, in words.
        heartbeat_at: renewed while the worker lives. If older than RUN_LEASE_SECONDS, the worker counts as killed.
    """

    __tablename__ = "training_run"
    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("project.id"))
    state: Mapped[str]
    reason: Mapped[str] = mapped_column(Text)
    attempt: Mapped[int] = mapped_column(default=1)
    step: Mapped[int] = mapped_column(default=0)
    steps: Mapped[int] = mapped_column(default=0)
    loss: Mapped[float | None]
    seconds_left: Mapped[float | None]
    config: Mapped[Json | None]
    metrics: Mapped[Json | None]
    annotation_ids: Mapped[list[int] | None]
    version_number: Mapped[int | None]
    decision: Mapped[str | None] = mapped_column(Text)
    error: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(default=now)
    started_at: Mapped[datetime | None]
    heartbeat_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]

    __table_args__ = tuple(
        Index(
            f"training_run_one_{state}",
            "project_id",
            unique=True,
            sqlite_where=text(f"state = '{state}'"),
            postgresql_where=text(f"state = '{state}'"),
        )
        for state in (RunState.QUEUED, RunState.RUNNING)
    )


class BulkRun(Table):
    """A bulk run: predicts many tasks and writes the predictions to Label Studio. At most one per project runs.

    Tasks are predicted in the order of their ids, page by page.

    Attributes:
        reason: who or what asked for the run, in words.
        only_unlabeled: whether tasks with an annotation are left out. It has no effect where `task_ids` is set.
        task_ids: the tasks of the run; None for all tasks of the project.
        strategy: a strategy of `lorabel.curation.strategy`. Such a run puts the tasks without an annotation into
            an order and writes that to Label Studio. None for a run that writes predictions.
        version_number: number of the version that was live at the start; the whole run predicts with it.
        cursor: id of the last task of the last page whose predictions Label Studio has.
        total: how many tasks the run has; None until the first page is read.
        done: tasks predicted.
        skipped: tasks that already had a prediction of this version. With a strategy: tasks that it could not
            compare with the others, which come last.
        failed: tasks that could not be predicted.
        failures: `{"task_id": ..., "reason": ...}` of the first 100 of these.
        label_studio_s: seconds spent in requests to Label Studio, of those from `started_at` to `finished_at`.
        attempt: 1, and one more each time the run is queued again because its worker was killed.
        kills: how often the worker was killed since the last page that was completed.
        heartbeat_at: as in `TrainingRun`.
    """

    __tablename__ = "bulk_run"
    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("project.id"))
    state: Mapped[str]
    reason: Mapped[str] = mapped_column(Text)
    only_unlabeled: Mapped[bool]
    task_ids: Mapped[list[int] | None]
    strategy: Mapped[str | None]
    version_number: Mapped[int | None]
    cursor: Mapped[int] = mapped_column(BigInteger, default=0)
    total: Mapped[int | None]
    done: Mapped[int] = mapped_column(default=0)
    skipped: Mapped[int] = mapped_column(default=0)
    failed: Mapped[int] = mapped_column(default=0)
    failures: Mapped[list[Json]] = mapped_column(default=list)
    label_studio_s: Mapped[float] = mapped_column(default=0.0)
    attempt: Mapped[int] = mapped_column(default=1)
    kills: Mapped[int] = mapped_column(default=0)
    error: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(default=now)
    started_at: Mapped[datetime | None]
    heartbeat_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]

    __table_args__ = (
        Index(
            "bulk_run_one_running",
            "project_id",
            unique=True,
            sqlite_where=text("state = 'running'"),
            postgresql_where=text("state = 'running'"),
        ),
        Index("bulk_run_state", "state"),
    )


class UnreadableTask(Table):
    """A task that the last prediction could not read. The row is deleted when a later prediction reads the task.

    `is_permanent`: trying again is useless, e.g. because the file is broken.
    """

    __tablename__ = "unread_task"
    project_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    task_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    reason: Mapped[str] = mapped_column(Text)
    is_permanent: Mapped[bool]
    seen_at: Mapped[datetime] = mapped_column(default=now)


class TaskEmbedding(Table):
    """The embedding of a task by the base model, for search.

    Attributes:
        contents: digest of the contents that were embedded (the addresses and texts, not the files' bytes).
        modalities: modalities of these contents, sorted and joined by spaces.
        space: names family and base model; only vectors of the same space can be compared (see `Embedding`).
        vector: length 1, little-endian float16.
        version: version of the project's `EmbeddingIndex` when the row was written.
    """

    __tablename__ = "task_embedding"
    project_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    task_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    contents: Mapped[str]
    modalities: Mapped[str]
    space: Mapped[str]
    vector: Mapped[bytes]
    version: Mapped[int]

    __table_args__ = (Index("task_embedding_version", "project_id", "version"),)


class EmbeddingIndex(Table):
    """State of a project's embeddings. Readers that keep vectors in memory learn from it what has changed.

    Attributes:
        version: counts the transactions that wrote or deleted embeddings of the project.
        deleted_at: `version` of the last deletion. A reader with an older version must read everything again.
        cursor: search has looked at every task up to this id and embedded what it could.
        space: the space of the vectors that `cursor` is about; None if there is none yet.
    """

    __tablename__ = "embedding_index"
    project_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    version: Mapped[int] = mapped_column(default=0)
    deleted_at: Mapped[int] = mapped_column(default=0)
    cursor: Mapped[int] = mapped_column(BigInteger, default=0)
    space: Mapped[str | None]


def version_name(project_id: int, number: int) -> str:
    """The name that Label Studio stores with predictions, e.g. `p12.v3`."""
    return f"p{project_id}.v{number}"
