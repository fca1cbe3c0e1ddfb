"""Computes tasks per second and latencies, in windows of equal length, from requests with a begin and an end.

A request of 100 tasks may last longer than a window, so its tasks count evenly over the time that it took. Of a
request that began before the first window or ended after the last, the part within the windows counts. A latency
belongs to the window in which the answer came; an answer after the end belongs to the last window.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.rows import percentile

WINDOWS = 5


@dataclass(frozen=True)
class Request:
    """A request of some tasks; `began_s` and `ended_s` are seconds of one clock."""

    began_s: float
    ended_s: float
    tasks: int = 1

    @property
    def took_ms(self) -> float:
        return (self.ended_s - self.began_s) * 1000


def tasks_per_second(requests: Sequence[Request], begin_s: float, end_s: float) -> list[float]:
    """One figure for each of the windows between `begin_s` and `end_s`."""
    length = (end_s - begin_s) / WINDOWS
    starts = [begin_s + i * length for i in range(WINDOWS)]
    return [
        sum(_tasks_within(request, start, start + length) for request in requests) / length for start in starts
    ]


def median_ms(requests: Sequence[Request], begin_s: float, end_s: float) -> list[float]:
    """The median latency in each window; a window without an answer has no figure."""
    return [statistics.median(latencies) for latencies in latencies_ms(requests, begin_s, end_s) if latencies]


def p99_ms(requests: Sequence[Request], begin_s: float, end_s: float) -> float:
    """The 99th percentile of the latencies in all windows."""
    windows = latencies_ms(requests, begin_s, end_s)
    return percentile([latency for latencies in windows for latency in latencies], 0.99)


def latencies_ms(requests: Sequence[Request], begin_s: float, end_s: float) -> list[list[float]]:
    """The latencies in each window."""
    windows: list[list[float]] = [[] for _ in range(WINDOWS)]
    for request in requests:
        if request.ended_s >= begin_s:
            index = int((request.ended_s - begin_s) / (end_s - begin_s) * WINDOWS)
            windows[min(index, WINDOWS - 1)].append(request.took_ms)
    return windows


def _tasks_within(request: Request, start_s: float, end_s: float) -> float:
    """The number of the request's tasks that count between `start_s` and `end_s`."""
    took_s = request.ended_s - request.began_s
    if took_s <= 0:
        return request.tasks if start_s <= request.ended_s < end_s else 0.0
    inside_s = min(request.ended_s, end_s) - max(request.began_s, start_s)
    return request.tasks * max(0.0, inside_s) / took_s
