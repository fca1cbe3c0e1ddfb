"""What forgetting would delete, found out in the background: to go through the events and annotations of a large
project takes seconds, and no page waits for that."""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, TimeoutError
from dataclasses import dataclass
from threading import BoundedSemaphore, Lock

from backend.forgetting import Plan
from lorabel.database.forgotten_events import Subject

AT_ONCE = 2
# A plan that nobody has fetched for so long is made anew: more may have been forgotten since.
FRESH_S = 5.0
# How many threads of a process wait for plans at a time. Others ask again.
MOST_WAITING = 4


@dataclass
class _Making:
    """A plan that is being made. `ended_at`: by `time.monotonic`; None until then."""

    future: Future[Plan]
    ended_at: float | None = None

    @property
    def is_old(self) -> bool:
        """Whether it was made too long ago."""
        return self.ended_at is not None and time.monotonic() - self.ended_at > FRESH_S


class ForgetPlans:
    """Plans that are being made. Thread-safe.

    Args:
        make: makes the plan for a project, a subject, and whether adapters are trained anew.
    """

    def __init__(self, make: Callable[[int, Subject, bool], Plan]) -> None:
        self._make = make
        self._makings: dict[tuple[int, Subject, bool], _Making] = {}
        self._lock = Lock()
        self._pool = ThreadPoolExecutor(AT_ONCE, "forget-plan")
        self._waiting = BoundedSemaphore(MOST_WAITING)

    def get(self, project_id: int, subject: Subject, *, is_retraining: bool, wait_s: float) -> Plan | None:
        """The plan of now; None if it is still being made after `wait_s`, or MOST_WAITING others wait.

        Raises:
            LorabelError: as `backend.forgetting.plan`.
        """
        key = (project_id, subject, is_retraining)
        with self._lock:
            self._makings = {each: making for each, making in self._makings.items() if not making.is_old}
            making = self._makings.get(key)
            if making is None:
                making = self._makings[key] = _Making(self._pool.submit(self._make, *key))
                making.future.add_done_callback(lambda _: setattr(making, "ended_at", time.monotonic()))
        is_waiting = self._waiting.acquire(blocking=False)
        try:
            plan = making.future.result(wait_s if is_waiting else 0.0)
        except TimeoutError:
            if not making.future.done():
                return None
            raise
        finally:
            if is_waiting:
                self._waiting.release()
            if making.future.done():
                with self._lock:
                    if self._makings.get(key) is making:  # not one that somebody has begun since
                        del self._makings[key]
        return plan

    def close(self) -> None:
        """Wait for what is being made, and make no more."""
        self._pool.shutdown(cancel_futures=True)
