"""The database tables. What is not in them is not known: Redis only carries jobs that name their rows.

An id of a project is our own (`Project.id`). An id of a task, annotation or user is Label Studio's, and belongs to
a project: two Label Studios use the same numbers. All times are in UTC. The columns change only together with a
migration (`lorabel/database/migrations`).
"""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, Text, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from lorabel.database.acceptance_tables import Acceptance as Acceptance
from lorabel.database.base_table import NEWEST_COLUMNS, Json, index_of_due, index_of_shown, index_of_usable, own_id
from lorabel.database.base_table import Table as Table
from lorabel.database.embedding_tables import EmbeddingIndex as EmbeddingIndex
from lorabel.database.embedding_tables import TaskEmbedding as TaskEmbedding
from lorabel.database.head_tables import ProjectHead as ProjectHead
from lorabel.database.head_tables import TaskFeatures as TaskFeatures
from lorabel.database.instruction_tables import TypedInstruction as TypedInstruction
from lorabel.database.label_error_tables import LabelErrorReport as LabelErrorReport
from lorabel.database.outcome_tables import TaskOutcome as TaskOutcome
from lorabel.database.privacy_tables import PrivacyRelease as PrivacyRelease
from lorabel.database.project_keys import LabelStudioId
from lorabel.database.rule_tables import RuleEffect as RuleEffect
from lorabel.database.states import BulkRunKind as BulkRunKind
from lorabel.database.states import EventState as EventState
from lorabel.database.states import RunState as RunState
from lorabel.database.states import VersionState as VersionState
from lorabel.database.task_tables import UnreadableTask as UnreadableTask


def now() -> datetime:
    return datetime.now(UTC)


class Event(Table):
    """A webhook request as it was received.

    Attributes:
        action: the event's name in Label Studio, e.g. `ANNOTATION_CREATED`.
        project_id: None if the request names no project, or one that is not known here.
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
    """A Label Studio project. `lorabel/database/projects.py` finds the row of a request.

    Attributes:
        id: our own id, which versions and commands use; `label_studio_id`, unless another project has it here.
        label_studio_id: the project's id in its Label Studio, which all calls of Label Studio's API use.
        label_studio_created_at: when it was created there, to the second until a request says more; or None.
        label_config: XML of the labeling interface; None until a request or event has brought it.
        renamed_labels: names that labels had before, see `lorabel.labeling.renamed_labels`; or None.
        hostname: address of Label Studio in the last `/setup` request. Nobody has checked it.
        setup_token: token in the last `/setup` request, a legacy one; encrypted.
        extra_params: the "extra params" that `/setup` sends; they override the training policy of the settings.
        instructions: by control tag what a model that writes is told; `kept` from annotators, or set `by_hand`.
        rules: what predictions are limited by, see `lorabel/database/rules.py`; None before rules were set.
        label_studio_url: address of Label Studio, as given to `lorabel connect`.
        api_key: token for Label Studio's API, as given to `lorabel connect`; encrypted.
        backend_url: our own address as Label Studio sees it, as given to `lorabel connect`.
        live_number: n of the live version `p<id>.v<n>`; 0 for the base models.
        secret_hash: hash of the webhook's secret, or None; see `lorabel/database/webhook_secrets.py`.
        earlier_secret_hash: hash of the secret that it replaced, or None.
        secret_enforced_at: from when events need the secret; None until Label Studio has it.
        compared_at: Label Studio's time at the start of the last comparison; the next reads what changed since.
        compared_fully_at: when all annotations were last compared.
        uncounted: how many more annotations Label Studio counted after that comparison than there are here.
        annotation_revision: counts the transactions that changed annotations.
        head_revision: `annotation_revision` at which the heads were fitted.
        head_number: n of the newest of the heads that answer, `p<id>.h<n>`; 0 if none does.
        head_config: the label config for which the heads were fitted. Under another they do not answer.
        heads_restored_at: when people made the live version live, with its heads of then; None after a run did.
    """

    __tablename__ = "project"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    label_studio_id: Mapped[LabelStudioId] = mapped_column(default=own_id, index=True)
    label_studio_created_at: Mapped[datetime | None]
    label_config: Mapped[str | None] = mapped_column(Text)
    renamed_labels: Mapped[Json | None]
    hostname: Mapped[str | None]
    setup_token: Mapped[str | None]
    extra_params: Mapped[Json | None]
    instructions: Mapped[Json | None]
    rules: Mapped[Json | None]
    label_studio_url: Mapped[str | None]
    api_key: Mapped[str | None]
    backend_url: Mapped[str | None]
    live_number: Mapped[int] = mapped_column(default=0)
    secret_hash: Mapped[str | None]
    earlier_secret_hash: Mapped[str | None]
    secret_enforced_at: Mapped[datetime | None]
    compared_at: Mapped[datetime | None]
    compared_fully_at: Mapped[datetime | None]
    uncounted: Mapped[int | None]
    annotation_revision: Mapped[int] = mapped_column(default=0)
    head_revision: Mapped[int] = mapped_column(default=0)
    head_number: Mapped[int] = mapped_column(default=0)
    head_config: Mapped[str | None] = mapped_column(Text)
    heads_restored_at: Mapped[datetime | None]
    is_deleted: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[datetime] = mapped_column(default=now)
    updated_at: Mapped[datetime] = mapped_column(default=now, onupdate=now)

    __table_args__ = (index_of_due("project_due"),)

    @property
    def live_version(self) -> str:
        return version_name(self.id, self.live_number)

    @property
    def has_heads(self) -> bool:
        """Whether fitted heads answer for some control tags."""
        return self.head_number > 0 and self.head_config == self.label_config

    @property
    def served_version(self) -> str:
        """Name of what answers now, which Label Studio stores with predictions: `p12.v3.h7.r2`, or `p12.v3`."""
        return served_name(self, self.live_number)

    @property
    def both_ids(self) -> str:
        """Our id, and Label Studio's where it differs: `1000000 (1 at http://labels.example.com)`."""
        if self.id == self.label_studio_id:
            return str(self.id)
        address = self.label_studio_url or self.hostname or "its Label Studio"
        return f"{self.id} ({self.label_studio_id} at {address})"


class Annotation(Table):
    """The newest known state of an annotation.

    The row of a deleted annotation stays: a creation event may arrive late. A Label Studio never uses an id twice.

    Attributes:
        task_id: None if a deletion is all that we know of the annotation; so are `task_data` and `result`.
        result: Label Studio's list of regions.
        was_cancelled: whether the annotator skipped the task.
        completed_by: user id of the annotator.
        lead_time_s: seconds that the annotator had the task open, all updates together; None if not known.
        prediction_id: id in Label Studio of the prediction that the annotator was shown; None if none was.
        prediction_version: its model version, which may be another model's than ours. None, like score and result,
            until Label Studio has told what the prediction was.
        prediction_score: its score, if it has one.
        prediction_result: its list of regions. Read only if a query asks for it.
        is_accepted: whether `result` says the same (`lorabel.labeling.results`); None if that is not known, or if
            the task was skipped.
        updated_at: time of this state in Label Studio; a state that is not newer is not applied.
        received_at: when this state reached us.
        run_id: the training run whose version became live and learned from this state, or holds its task out; None
            while it is new.
        tries: how many finished runs have read this state without learning from it.
        times_applied: how many states of this annotation were applied, its deletion included.
    """

    __tablename__ = "annotation"
    project_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    task_id: Mapped[int | None] = mapped_column(BigInteger)
    task_data: Mapped[Json | None]
    result: Mapped[Any | None] = mapped_column(JSON)
    was_cancelled: Mapped[bool] = mapped_column(default=False)
    ground_truth: Mapped[bool] = mapped_column(default=False)
    completed_by: Mapped[int | None]
    lead_time_s: Mapped[float | None]
    prediction_id: Mapped[int | None] = mapped_column(BigInteger)
    prediction_version: Mapped[str | None]
    prediction_score: Mapped[float | None]
    prediction_result: Mapped[list[Any] | None] = mapped_column(JSON(none_as_null=True), deferred=True)
    is_accepted: Mapped[bool | None]
    updated_at: Mapped[datetime | None]
    received_at: Mapped[datetime] = mapped_column(default=now)
    is_deleted: Mapped[bool] = mapped_column(default=False)
    run_id: Mapped[int | None]
    tries: Mapped[int] = mapped_column(default=0)
    times_applied: Mapped[int] = mapped_column(default=0)

    __table_args__ = (
        Index("annotation_task", "project_id", "task_id"),
        index_of_usable("annotation_newest", NEWEST_COLUMNS, "task_id IS NOT NULL"),
        index_of_usable("annotation_new", ("project_id", "tries", "received_at", "id"), "run_id IS NULL"),
        index_of_usable("annotation_learned", ("project_id", "id", "task_id"), "run_id IS NOT NULL"),
        index_of_shown("annotation_shown"),
        Index("annotation_received", "received_at", "project_id", "is_deleted"),
    )


class DeletedTask(Table):
    """A task that was deleted in Label Studio: annotation events that arrive later are not used for training."""

    __tablename__ = "deleted_task"
    project_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    task_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)


class ModelVersion(Table):
    """A model version `p<project>.v<number>`: a set of adapters, one per control tag. Version 0 has no row.

    Attributes:
        parent: number of the version that was live when this one was trained.
        base_models: from_name -> hub id or folder of the base model that the adapter was trained on.
        adapters: from_name -> the adapter's name, e.g. `p12.v3/label`. A control tag for which nothing better was
            trained keeps the adapter of the version before, so the name may have a lower number.
        metrics: `candidate` and `live` hold scores by from_name, measured on the same held-out tasks;
            `calibration` holds temperatures, `families` names of families, and `heads` what is known of the
            version's heads, by from_name; `decision` says why the version was promoted or rejected.
        trained_on: annotation ids.
        head_annotation_ids: from_name -> what the version's head was fitted on, sorted. Loaded only on request.
        run_id: the training run that made the version.
        promoted_at: when the version last became live; None if it never was.
        adapters_removed_at: when the folder with its adapters was removed, because the version was rejected long
            ago; None while there is a folder.
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
    head_annotation_ids: Mapped[Json | None] = mapped_column(deferred=True)
    run_id: Mapped[int | None]
    created_at: Mapped[datetime] = mapped_column(default=now)
    promoted_at: Mapped[datetime | None]
    adapters_removed_at: Mapped[datetime | None]

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
        losses: from_name -> `[step, loss]` of steps at even distances, see `lorabel.database.loss_curves`.
        seconds_left: estimate of the time until the run ends; None when it has ended.
        config: the training recipe, and under `compared` what the comparison with Label Studio found.
        metrics: those of the version that the run made. By from_name and annotation id, `skipped` has why one was
            not used, `left_out` why parts were not; `still_new` is how many of the new ones it read still are.
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
    losses: Mapped[Json | None]
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

    __table_args__ = (
        *(
            Index(
                f"training_run_one_{state}",
                "project_id",
                unique=True,
                sqlite_where=text(f"state = '{state}'"),
                postgresql_where=text(f"state = '{state}'"),
            )
            for state in (RunState.QUEUED, RunState.RUNNING)
        ),
        Index("training_run_state", "state"),
        Index("training_run_project", "project_id", "id"),
    )


class BulkRun(Table):
    """A bulk run: a job about many tasks of a project. At most one per project runs.

    The tasks of a page are done together; pages are in the order of task ids.

    Attributes:
        reason: who or what asked for the run, in words.
        only_unlabeled: whether tasks with an annotation are left out. It has no effect where `task_ids` is set.
        task_ids: the tasks of the run; None for all tasks of the project.
        kind: a `BulkRunKind`.
        strategy: of an order, a strategy of `lorabel.curation.strategy`; None for other kinds.
        version_number: number of the version that was live at the start; the whole run predicts with it.
        cursor: id of the last task of the last page whose predictions Label Studio has, or whose vectors are
            stored.
        total: how many tasks the run has; None until the first page is read.
        done: tasks predicted, put into an order, or compared.
        skipped: tasks that already had a prediction of this version. With another kind: tasks that could not be
            compared with the others, since their vectors are in another space.
        failed: tasks that could not be read.
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
    kind: Mapped[str] = mapped_column(default=BulkRunKind.PREDICTIONS)
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
        Index("bulk_run_project", "project_id", "id"),
    )


def served_name(project: Project, number: int) -> str:
    """The name under which Label Studio stores predictions of a version with the heads and rules of now."""
    name = version_name(project.id, number)
    name = f"{name}.h{project.head_number}" if project.has_heads else name
    rules = project.rules or {}
    return f"{name}.r{rules['number']}" if rules.get("file") else name


def version_name(project_id: int, number: int) -> str:
    """The name of a version, e.g. `p12.v3`."""
    return f"p{project_id}.v{number}"
