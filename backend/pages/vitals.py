"""How Lorabel's parts are: queues, workers, device, what `lorabel doctor` finds, and the titles of projects.

Each is found out in the background when a page is looked at, at most as often as its lifetime says.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from redis.exceptions import RedisError
from rq import Queue, Worker
from rq.serializers import JSONSerializer
from rq.worker import BaseWorker

from backend.pages.snapshots import Snapshot
from lorabel.database import projects
from lorabel.database.jobs import BULK, LIGHT, LOOKAHEAD, TRAIN, Jobs
from lorabel.database.store import Store
from lorabel.errors import ModelServerError
from lorabel.inference.model_client import ModelClient
from lorabel.label_studio.project_titles import project_titles
from lorabel.settings import Settings

if TYPE_CHECKING:
    from lorabel.commands.checks import Check

QUEUES = (LIGHT, TRAIN, BULK, LOOKAHEAD)
PARTS_LIFETIME_S = 5.0
TITLES_LIFETIME_S = 60.0
# The doctor asks each project's Label Studio.
DOCTOR_LIFETIME_S = 600.0
MOST_WORKERS = 100
CLOSE_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class QueueLength:
    """Jobs that wait on a queue."""

    name: str
    waiting: int


@dataclass(frozen=True)
class WorkerState:
    """A worker as Redis knows it. `seen_at`: its last sign of life."""

    name: str
    queues: Sequence[str]
    state: str
    seen_at: datetime | None


@dataclass(frozen=True)
class Device:
    """What the model server computes on, and how many model families it has loaded."""

    device: str
    precision: str
    families: Sequence[str]


@dataclass(frozen=True)
class Parts:
    """Queues and workers, and the device; or why they are not known."""

    queues: Sequence[QueueLength]
    workers: Sequence[WorkerState]
    redis_fault: str | None
    device: Device | None
    device_fault: str | None


class Vitals:
    """The snapshots that pages show. Thread-safe."""

    def __init__(self, settings: Settings, store: Store, jobs: Jobs, model_client: ModelClient) -> None:
        self._settings, self._store, self._jobs, self._model_client = settings, store, jobs, model_client
        self.parts = Snapshot(self._find_parts, PARTS_LIFETIME_S, "queues, workers and device")
        self.titles = Snapshot(self._find_titles, TITLES_LIFETIME_S, "titles of projects")
        self.checks = Snapshot(self._examine, DOCTOR_LIFETIME_S, "what the doctor finds")

    def title(self, project_id: int) -> str | None:
        """The project's title in Label Studio; None if it is not known (yet)."""
        taken = self.titles.get(wait_s=0.3)
        return None if taken is None else taken.value.get(project_id)

    def renew(self) -> None:
        """Find out titles, and what the doctor finds, anew: projects were connected."""
        self.titles.renew()
        self.checks.renew()

    def close(self) -> None:
        """Use the database, Redis and the model server no more. The doctor has connections of its own."""
        self.checks.close(timeout_s=0.0)
        for snapshot in (self.parts, self.titles):
            snapshot.close(CLOSE_TIMEOUT_S)

    def _find_parts(self) -> Parts:
        queues, workers, redis_fault = self._queues_and_workers()
        try:
            models = self._model_client.models()
        except ModelServerError as error:
            return Parts(queues, workers, redis_fault, None, str(error))
        device = Device(str(models.device), str(models.precision), [family.name for family in models.families])
        return Parts(queues, workers, redis_fault, device, None)

    def _queues_and_workers(self) -> tuple[list[QueueLength], list[WorkerState], str | None]:
        redis = self._jobs.redis
        try:
            queues = [
                QueueLength(name, Queue(name, connection=redis, serializer=JSONSerializer).count)
                for name in QUEUES
            ]
            workers = [_state_of(row) for row in Worker.all(connection=redis, serializer=JSONSerializer)]
        except RedisError as error:
            return [], [], f"Redis cannot be reached: {error}"
        workers = workers[:MOST_WORKERS]
        return queues, sorted(workers, key=lambda worker: (list(worker.queues), worker.name)), None

    def _find_titles(self) -> dict[int, str]:
        with self._store.read() as session:
            rows = projects.list_all(session)
        return project_titles(rows, self._settings)

    def _examine(self) -> "list[Check]":
        # Imported here: the backend starts without what commands need.
        from lorabel.commands.doctor import examine

        return examine(self._settings)


def _state_of(worker: BaseWorker) -> WorkerState:
    name = f"{worker.hostname or '?'}:{worker.pid or '?'}"
    return WorkerState(name, worker.queue_names(), str(worker.state), _utc(worker.last_heartbeat))


def _utc(time: datetime | None) -> datetime | None:
    return time if time is None or time.tzinfo else time.replace(tzinfo=UTC)
