"""How many rows may be computed together: what memory allows, and what people can wait for."""

import logging
import math
import time

from lorabel.families.base import Family
from lorabel.families.generation.stepwise import StepwiseFamily
from lorabel.inference.messages import Priority
from model_server.metrics import Metrics
from model_server.rows import Row

log = logging.getLogger(__name__)

# Full batches of the reduced size that must succeed before a larger size is tried again.
GROW_AFTER = 100
# Time that a background batch should take on the device: a person's row may have to wait for all of it. Larger
# batches are computed faster, so they take longer while no person has asked for PEOPLE_STAY_S.
BACKGROUND_BATCH_S, UNDISTURBED_BATCH_S = 0.2, 0.8
PEOPLE_STAY_S = 60.0
# Background rows that a batch waits for while others of the project are on their way, and how long. Without this
# a model that is faster than files are read has batches of three or four rows, whose cost is mostly Python's.
GATHERED_ROWS, GATHER_S = 16, 0.05
# Seconds of a row that are not told from less.
SHORTEST_ROW_S = 1e-6
# As many rows as there are cores, each on a core of its own, may take this many times as long as one row that all
# cores share: then a person waits little longer, and no core waits for the others.
WORTH_DIVIDING = 1.5
# Share by which a single row makes the time of divided rows forgotten, so that they are tried again.
FORGOTTEN = 0.05


class BatchSizes:
    """The sizes of an engine's batches. Only its device thread changes them; `note_person` is for any thread.

    Args:
        max_batch: most rows per forward pass. The attribute is lower while the device lacks memory.
        threads: how many of torch's threads the device's thread computes with; threads that prepare have one.
    """

    def __init__(self, max_batch: int, threads: int, metrics: Metrics) -> None:
        self.max_batch = self._setting = max_batch
        self._threads = threads
        self._metrics, self._full_batches = metrics, 0
        self._metrics.max_batch.set(max_batch)
        # By family: seconds per row on the device. Where cores compute rows of their own: seconds per row of
        # batches that all cores shared, and of one row for each core.
        self.row_s: dict[str, float] = {}
        self._shared_s: dict[str, float] = {}
        self._divided_s: dict[str, float] = {}
        self._person_asked = -math.inf

    def note_person(self) -> None:
        """Keep background batches short for PEOPLE_STAY_S: who asks now may ask again."""
        self._person_asked = time.monotonic()

    def most(self, first: Row) -> int:
        """Size limit of a batch that begins with this row: 1 until it is known how long a background row takes."""
        family = first.loaded_family.family
        most = min(self.max_batch, family.most_rows or self.max_batch)
        if first.priority == Priority.INTERACTIVE or isinstance(family, StepwiseFamily):
            return most
        is_undisturbed = time.monotonic() - self._person_asked > PEOPLE_STAY_S
        batch_s = UNDISTURBED_BATCH_S if is_undisturbed else BACKGROUND_BATCH_S
        return min(most, self._rows_in(family, batch_s))

    def wanted(self, first: Row, coming: int) -> int:
        """How many rows a batch that begins with this one waits for: 1 if a person waits.

        Args:
            coming: background rows of the row's project that are prepared or will be.
        """
        if first.priority == Priority.INTERACTIVE or isinstance(first.loaded_family.family, StepwiseFamily):
            return 1
        return min(GATHERED_ROWS, self.most(first), coming)

    def learn(self, family: Family, rows: int, seconds: float) -> None:
        """Remember what a batch took on the device. Called by the device's thread."""
        name, threads = family.name, self._threads
        if not self._divides(family):
            _average(self.row_s, name, seconds / rows)
        elif rows >= threads:
            _average(self._divided_s, name, seconds / rows * threads)
        else:
            _average(self._shared_s, name, seconds / rows)
            if (divided_s := self._divided_s.get(name)) is not None:
                self._divided_s[name] = divided_s + FORGOTTEN * (seconds / rows - divided_s)

    def _rows_in(self, family: Family, batch_s: float) -> int:
        """How many background rows are computed in about `batch_s`; at least 1.

        As many rows as there are cores take as long as one, if each is computed on a core of its own. Else a row
        that takes more than half of the time that a batch may take would keep all batches at one row.
        """
        if not self._divides(family):
            return _rows(batch_s, self.row_s.get(family.name, batch_s))
        threads = self._threads
        shared_s, divided_s = self._shared_s.get(family.name, batch_s), self._divided_s.get(family.name)
        if self._is_worth_dividing(family, batch_s):
            return max(threads, _rows(batch_s, shared_s if divided_s is None else divided_s / threads))
        return min(threads - 1, _rows(batch_s, shared_s))

    def _divides(self, family: Family) -> bool:
        """Whether a batch of enough rows is divided among the cores."""
        may_divide = family.divides_rows and 1 < self._threads <= (family.most_rows or self.max_batch)
        return may_divide and family.device.type == "cpu"

    def _is_worth_dividing(self, family: Family, batch_s: float) -> bool:
        """Whether a row for each core takes no longer than a batch may, or little longer than a single row.

        True if only fewer rows were computed yet: the other is tried.
        """
        shared_s, divided_s = self._shared_s.get(family.name), self._divided_s.get(family.name)
        if divided_s is None:
            return shared_s is not None
        return divided_s <= max(batch_s, WORTH_DIVIDING * (shared_s or 0.0))

    def grow(self, rows: int) -> None:
        """Double a reduced `max_batch` after GROW_AFTER full batches: other processes may have freed memory."""
        if self.max_batch == self._setting or rows < self.max_batch:
            return
        self._full_batches += 1
        if self._full_batches >= GROW_AFTER:
            self.limit(min(self._setting, 2 * self.max_batch))

    def limit(self, rows: int) -> None:
        """Set `max_batch`."""
        self.max_batch, self._full_batches = rows, 0
        self._metrics.max_batch.set(rows)
        log.warning("batches have at most %d rows from now on", rows)


def _average(times: dict[str, float], name: str, seconds: float) -> None:
    times[name] = (times.get(name, seconds) + seconds) / 2


def _rows(batch_s: float, row_s: float) -> int:
    return max(1, int(batch_s / max(row_s, SHORTEST_ROW_S)))
