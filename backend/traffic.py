"""The answers to `/predict` of the last hour, for the page of all projects. Prometheus has more (`metrics.py`).

Each process knows its own. An hour with more answers than MOST_KEPT is shown as far as they go back.
"""

import statistics
import threading
import time
from collections import deque
from dataclasses import dataclass

SPAN_S = 3600.0
MOST_KEPT = 20_000
ENDPOINT = "/predict"


@dataclass(frozen=True)
class LastHour:
    """Answers of the last SPAN_S, or fewer seconds if there were more than MOST_KEPT.

    Attributes:
        failed: those with a status of 500 and more, as when the model server is busy.
        median_s, p95_s: seconds until the answer; None if there was none.
    """

    answers: int
    failed: int
    median_s: float | None
    p95_s: float | None
    span_s: float


class Traffic:
    """Keeps how long the last answers took. Thread-safe."""

    def __init__(self) -> None:
        self._answers: deque[tuple[float, float, bool]] = deque(maxlen=MOST_KEPT)
        self._lock = threading.Lock()

    def add(self, seconds: float, status: int) -> None:
        """Keep an answer."""
        with self._lock:
            self._answers.append((time.monotonic(), seconds, status >= 500))

    def last_hour(self) -> LastHour:
        """What is kept of the last hour."""
        now_s = time.monotonic()
        with self._lock:
            while self._answers and now_s - self._answers[0][0] > SPAN_S:
                self._answers.popleft()
            answers = list(self._answers)
        span_s = now_s - answers[0][0] if len(answers) == MOST_KEPT else SPAN_S
        seconds = [took_s for _, took_s, _ in answers]
        failed = sum(has_failed for _, _, has_failed in answers)
        if not seconds:
            return LastHour(0, 0, None, None, span_s)
        p95_s = max(seconds) if len(seconds) < 2 else statistics.quantiles(seconds, n=20, method="inclusive")[-1]
        return LastHour(len(answers), failed, statistics.median(seconds), p95_s, span_s)
