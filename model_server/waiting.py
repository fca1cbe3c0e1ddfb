"""Counts the rows of each priority that wait for an answer, and refuses more than may."""

import threading
from collections import Counter

from lorabel.errors import ModelServerBusyError, RequestTooLargeError
from lorabel.inference.messages import Priority
from model_server.metrics import Metrics

RETRY_AFTER_S = 2


class WaitingRows:
    """How many rows wait. Thread-safe.

    Args:
        most: rows of one priority that may wait.
    """

    def __init__(self, most: int, metrics: Metrics) -> None:
        self._most, self._metrics = most, metrics
        self._rows: Counter[Priority] = Counter()
        self._lock = threading.Lock()

    def reserve(self, priority: Priority, rows: int) -> None:
        """Count the rows of a new request.

        Raises:
            ModelServerBusyError: they do not fit beside those that wait; none is counted.
            RequestTooLargeError: they are more than may wait at all.
        """
        if rows > self._most:
            raise RequestTooLargeError(
                f"the request has {rows} rows, and at most {self._most} may wait (MAX_WAITING)"
            )
        with self._lock:
            waiting = self._rows[priority]
            if waiting + rows > self._most:
                raise ModelServerBusyError(
                    f"{waiting} rows are waiting, at most {self._most} may (MAX_WAITING); the request has {rows}",
                    retry_after_s=RETRY_AFTER_S,
                )
            self._add(priority, rows)

    def release(self, priority: Priority) -> None:
        """Count a row as answered."""
        with self._lock:
            self._add(priority, -1)

    def _add(self, priority: Priority, rows: int) -> None:
        self._rows[priority] += rows
        self._metrics.waiting.labels(priority).set(self._rows[priority])
