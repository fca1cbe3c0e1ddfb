"""Training runs and bulk runs as the pages list them: the same kind of thing, with a progress and an outcome."""

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType

from lorabel.database import bulk_runs, training_runs
from lorabel.database.store import Store
from lorabel.database.tables import BulkRun, BulkRunKind, RunState, TrainingRun

MOST_ACTIVE = 50
LIFETIME_S = 1.0
KINDS: Mapping[str, str] = MappingProxyType(
    {
        BulkRunKind.PREDICTIONS: "Predictions",
        BulkRunKind.ORDER: "Order of tasks",
        BulkRunKind.ORDER_RENEWAL: "Renewal of the order",
        BulkRunKind.LABEL_ERRORS: "Label errors",
        BulkRunKind.ACCEPTANCE: "Acceptance",
        BulkRunKind.ACCEPTANCE_UNDO: "Undoing an acceptance",
        BulkRunKind.INDEX: "Indexing for search",
    }
)


@dataclass(frozen=True)
class RunRow:
    """A run in a list.

    Attributes:
        is_training: whether it is a training run.
        what: its kind in words.
        done, total: optimizer steps, or tasks; `total` is None or 0 while that is not known.
        outcome: what became of it, or why it failed; else why it was begun.
    """

    id: int
    project_id: int
    is_training: bool
    what: str
    state: str
    done: int
    total: int | None
    loss: float | None
    seconds_left: float | None
    outcome: str
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    version_number: int | None

    @property
    def is_active(self) -> bool:
        """Whether it waits or goes on."""
        return self.state in (RunState.QUEUED, RunState.RUNNING)

    @property
    def unit(self) -> str:
        """What `done` and `total` count."""
        return "steps" if self.is_training else "tasks"

    @property
    def seconds(self) -> float | None:
        """How long it took; None while it has not ended."""
        if self.started_at is None or self.finished_at is None:
            return None
        return (self.finished_at - self.started_at).total_seconds()


def of_training(run: TrainingRun) -> RunRow:
    """A training run."""
    return RunRow(
        run.id,
        run.project_id,
        True,
        "Training",
        run.state,
        run.step,
        run.steps or None,
        run.loss,
        run.seconds_left,
        run.error or run.decision or run.reason,
        run.created_at,
        run.started_at,
        run.finished_at,
        run.version_number,
    )


def of_bulk(run: BulkRun) -> RunRow:
    """A bulk run."""
    return RunRow(
        run.id,
        run.project_id,
        False,
        KINDS[run.kind],
        run.state,
        run.done + run.skipped + run.failed,
        run.total,
        None,
        None,
        run.error or run.reason,
        run.created_at,
        run.started_at,
        run.finished_at,
        None,
    )


class ActiveRuns:
    """The runs that wait or go on now. Thread-safe.

    Whoever asks first after LIFETIME_S reads the database, for all: one reader a process, whatever pages are open.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._rows: Sequence[RunRow] = ()
        self._read_at = float("-inf")
        self._lock = threading.Lock()

    def get(self) -> Sequence[RunRow]:
        """At most MOST_ACTIVE training runs and as many bulk runs, oldest first, at most LIFETIME_S old."""
        with self._lock:
            if time.monotonic() - self._read_at > LIFETIME_S:
                with self._store.read() as session:
                    self._rows = [
                        *map(of_training, training_runs.list_active(session, MOST_ACTIVE)),
                        *map(of_bulk, bulk_runs.list_active(session, MOST_ACTIVE)),
                    ]
                self._read_at = time.monotonic()
            return self._rows

    def forget(self) -> None:
        """Read the database at the next call: something was changed here."""
        with self._lock:
            self._read_at = float("-inf")
