"""Requests with a begin and an end -> tasks a second and latencies in windows of equal length.

A request of 100 tasks may last longer than a window, so its tasks count evenly over the time that it took. What
began before the first window or ended after the last counts with the part that lies within. A latency belongs to
the window in which the answer came; what was still on its way at the end belongs to the last one.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.rows import percentile

WINDOWS = 5


@dataclass(frozen=True)
class Request:
    """`began_s` and `ended_s` by the clock of who measured it."""

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
    return [statistics.median(found) for found in _latencies(requests, begin_s, end_s) if found]


def p99_ms(requests: Sequence[Request], begin_s: float, end_s: float) -> float:
    return percentile([ms for found in _latencies(requests, begin_s, end_s) for ms in found], 0.99)


def _latencies(requests: Sequence[Request], begin_s: float, end_s: float) -> list[list[float]]:
    found: list[list[float]] = [[] for _ in range(WINDOWS)]
    for request in requests:
        if request.ended_s >= begin_s:
            place = int((request.ended_s - begin_s) / (end_s - begin_s) * WINDOWS)
            found[min(place, WINDOWS - 1)].append(request.took_ms)
    return found


def _tasks_within(request: Request, start_s: float, end_s: float) -> float:
    took_s = request.ended_s - request.began_s
    if took_s <= 0:
        return request.tasks if start_s <= request.ended_s < end_s else 0.0
    inside_s = min(request.ended_s, end_s) - max(request.began_s, start_s)
    return request.tasks * max(0.0, inside_s) / took_s
