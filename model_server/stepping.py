"""Rows of families that answer step by step, such as those that write texts.

They wait in a queue of their own until there is room for them, and are computed together. The engine calls `step`
between the batches of other families, so that a click waits for one step at most, not for a whole text.
"""

import logging
import math
import time
from dataclasses import dataclass, field
from typing import cast

import torch

from lorabel.families.generation.stepwise import Steps, StepwiseFamily
from lorabel.inference.messages import Priority, RowResult
from model_server.device_errors import is_device_lost, is_out_of_memory
from model_server.fair_queue import FairQueue
from model_server.family_pool import LoadedFamily
from model_server.rows import Row, errors_as_result, failure_of

log = logging.getLogger(__name__)

# Seconds that a step should take at most: a click may have to wait for it. While steps take longer, no more than
# FEWEST_ROWS are computed together.
STEP_S = 0.5
FEWEST_ROWS = 8


@dataclass
class _Stepping:
    """The rows of a family.

    Args:
        max_rows: most rows that are computed together: fewer than usual once memory ran out, until all are done.
        ran_out: whether it did.
        step_s: seconds of the last step.
        waiting: rows that have not begun.
    """

    steps: Steps
    max_rows: int
    ran_out: bool = False
    step_s: float = math.inf
    waiting: FairQueue[Row] = field(default_factory=FairQueue)

    @classmethod
    def of(cls, loaded: LoadedFamily, max_rows: int) -> "_Stepping":
        return cls(cast(StepwiseFamily, loaded.family).steps(loaded.adapter_bank, loaded.cache), max_rows)

    @property
    def rows(self) -> list[Row]:
        return cast(list[Row], list(self.steps.rows))


class Stepping:
    """The rows of all families that answer step by step. Used by the thread that owns the device only.

    Args:
        max_rows: most rows of a family that are computed together; as many of people beside those in the
            background.
    """

    def __init__(self, max_rows: int) -> None:
        self._max_rows = max_rows
        self._families: dict[str, _Stepping] = {}

    @property
    def has_rows(self) -> bool:
        """Whether a call of `step` has anything to do."""
        return any(family.steps.rows or len(family.waiting) for family in self._families.values())

    def add(self, rows: list[Row]) -> None:
        """Take rows of one family, which wait until there is room."""
        loaded = rows[0].loaded_family
        family = self._families.get(loaded.family.name)
        if family is None:
            family = self._families[loaded.family.name] = _Stepping.of(loaded, self._max_rows)
        for row in rows:
            family.waiting.put(row)

    def step(self) -> None:
        """Let rows leave that nobody waits for, let others join, and compute one step: of the families in turn.

        Rows that fail are finished with their error.

        Raises:
            Exception: the device is lost; all rows are finished with this error.
        """
        name = next(
            (name for name, family in self._families.items() if family.steps.rows or len(family.waiting)), None
        )
        if name is None:
            return
        family = self._families.pop(name)
        self._families[name] = family  # the last in turn
        for row in family.rows:
            if not row.is_wanted():
                family.steps.leave(row)
        self._admit(family)
        self._compute(family)

    def _admit(self, family: _Stepping) -> None:
        """Begin waiting rows, in the queue's order, while there is room for the next."""
        if not family.steps.rows:
            family.max_rows, family.ran_out = self._max_rows, False
        max_rows = family.max_rows if family.step_s <= STEP_S else min(FEWEST_ROWS, family.max_rows)

        def may_begin(row: Row) -> bool:
            if not row.is_wanted():
                return True
            # People do not wait for rows in the background, which may be long, unless memory ran out.
            is_ahead = row.priority == Priority.INTERACTIVE and not family.ran_out
            rows = [other for other in family.rows if not is_ahead or other.priority == Priority.INTERACTIVE]
            return len(rows) < max_rows and family.steps.has_room(row.example)

        while (row := family.waiting.take_next(may_begin)) is not None:
            if row.is_wanted():
                family.steps.begin(row, row.example, row.adapter)
                if row.priority != Priority.INTERACTIVE:
                    family.steps.set_background(row)

    def _compute(self, family: _Stepping) -> None:
        try:
            started = time.monotonic()
            done = cast(list[Row], family.steps.step())
            family.step_s = time.monotonic() - started
            for row in done:
                with errors_as_result(row.done, row.question.kind):
                    row.finish(RowResult(output=family.steps.finish(row).model_dump()))
        except Exception as error:
            rows = family.rows
            if is_device_lost(error):
                self._fail(family, rows, error)
                raise
            if is_out_of_memory(error) and len(rows) > 1:
                # The newest row begins anew, and no others begin, once one of those that stay is done.
                log.warning("memory ran out with %d rows; the newest one waits: %s", len(rows), error)
                family.steps.leave(rows[-1])
                family.waiting.put_back(rows[-1])
                family.max_rows, family.ran_out = len(rows) - 1, True
            else:
                log.exception("a step failed")
                self._fail(family, rows, error)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _fail(self, family: _Stepping, rows: list[Row], error: Exception) -> None:
        for row in rows:
            family.steps.leave(row)
            row.finish(failure_of(error))
