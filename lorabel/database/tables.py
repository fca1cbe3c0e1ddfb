"""The tables: the database is the truth, Redis only carries the news that there is something to do."""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Text,
    TypeDecorator,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

Json = dict[str, Any]


def now() -> datetime:
    return datetime.now(UTC)


class UtcDateTime(TypeDecorator[datetime]):
    """An aware time in UTC. SQLite keeps no zone, so it is put back on reading."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.replace(tzinfo=UTC) if value.tzinfo is None else value


class EventState(StrEnum):
    PENDING = "pending"
    APPLIED = "applied"
    STALE = "stale"
    IGNORED = "ignored"
    FAILED = "failed"


class VersionState(StrEnum):
    CANDIDATE = "candidate"
    LIVE = "live"
    REJECTED = "rejected"
    RETIRED = "retired"


class RunState(StrEnum):
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
    """One webhook request, as it came. `payload` is the raw JSON body."""

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
    """A Label Studio project, by its id there.

    `hostname` and `setup_token` are what `/setup` said; `label_studio_url`, `api_key` and `backend_url` (our
    address as Label Studio sees it) what the operator said with `lorabel connect`. `live_number` is n of the
    live version `p<id>.v<n>`, 0 for the base models.
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
    is_deleted: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[datetime] = mapped_column(default=now)
    updated_at: Mapped[datetime] = mapped_column(default=now, onupdate=now)

    @property
    def live_version(self) -> str:
        return version_name(self.id, self.live_number)


class Annotation(Table):
    """The newest known state of one annotation, by its id in Label Studio.

    A deleted one stays as a tombstone, so that a creation that arrives late does not revive it (Label Studio
    never uses an id twice). `run_id` is the run that last took this state, None while it is new.
    """

    __tablename__ = "annotation"
    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    project_id: Mapped[int] = mapped_column(index=True)
    task_id: Mapped[int | None] = mapped_column(BigInteger, index=True)
    task_data: Mapped[Json | None]
    result: Mapped[Any | None] = mapped_column(JSON)
    was_cancelled: Mapped[bool] = mapped_column(default=False)
    ground_truth: Mapped[bool] = mapped_column(default=False)
    completed_by: Mapped[int | None]
    updated_at: Mapped[datetime | None]
    received_at: Mapped[datetime] = mapped_column(default=now)
    is_deleted: Mapped[bool] = mapped_column(default=False)
    run_id: Mapped[int | None]
    times_applied: Mapped[int] = mapped_column(default=0)


class DeletedTask(Table):
    """A tombstone, so that an annotation event that arrives after its task's deletion does not train."""

    __tablename__ = "deleted_task"
    task_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    project_id: Mapped[int]


class ModelVersion(Table):
    """A set of adapters, one per control tag: `adapters` maps from_name to an adapter folder's name.

    `trained_on` are annotation ids; `metrics` has `candidate` and `live`, each by control tag, measured on
    the same held-out tasks, `calibration` by control tag, and `decision`, a sentence.
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
    """One run, also while it is queued or running; at most one of each per project.

    `heartbeat_at` is renewed while the run lives: silence means that its worker was killed.
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
    """Predictions of many tasks, written back to Label Studio; at most one of a project is running.

    The tasks are `task_ids`, else those without an annotation, else all. They are done by id, and `cursor` is
    the last one of the last page that Label Studio has. Every task up to it is done, was skipped since it had
    a prediction of the version, or failed; `failures` names the first of these with the reason. `version_number`
    is what was live at the start, for the whole run. `label_studio_s` are the seconds spent in Label Studio, of
    those from `started_at` to `finished_at`. `kills` are those since the last page.

    With a `strategy` (`lorabel.curation.sampling`) the run orders the tasks that have no annotation instead.
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
    """A task that the last prediction could not read, and why; gone once it is read."""

    __tablename__ = "unread_task"
    project_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    task_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    reason: Mapped[str] = mapped_column(Text)
    is_permanent: Mapped[bool]
    seen_at: Mapped[datetime] = mapped_column(default=now)


class TaskEmbedding(Table):
    """Where a task lies in the space of its base model, for search.

    `contents` is the digest of what was embedded, by address and text; `modalities` theirs, joined by spaces;
    `space` as in `Embedding`. `vector` is little-endian float16. `version` is its project's in `EmbeddingIndex`
    when the row was written.
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
    """What happened to a project's embeddings: `version` counts the changes, `deleted_at` is that of the last
    deletion. The project's tasks were all looked at up to the id `cursor`, for vectors of `space`."""

    __tablename__ = "embedding_index"
    project_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    version: Mapped[int] = mapped_column(default=0)
    deleted_at: Mapped[int] = mapped_column(default=0)
    cursor: Mapped[int] = mapped_column(BigInteger, default=0)
    space: Mapped[str | None]


def version_name(project_id: int, number: int) -> str:
    return f"p{project_id}.v{number}"
