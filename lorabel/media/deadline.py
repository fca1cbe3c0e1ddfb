"""The moment after which nobody needs what the running thread reads. Decoders look at it and stop.

It is a context variable and not a parameter, so that the families of other packages need not pass it on. A thread
without a deadline, as in training, reads on until the limits on a single file stop it.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from time import monotonic

from lorabel.errors import UnreadableError

_ends_at: ContextVar[float] = ContextVar("media_deadline", default=math.inf)


@contextmanager
def deadline(ends_at: float) -> Iterator[None]:
    """A context in which reading stops at this moment, or earlier if a context around it ends earlier.

    Args:
        ends_at: in seconds of `time.monotonic`.
    """
    token = _ends_at.set(min(ends_at, _ends_at.get()))
    try:
        yield
    finally:
        _ends_at.reset(token)


def seconds_left(most_s: float) -> float:
    """Seconds until the deadline: at most `most_s`, and 0 after it."""
    return max(0.0, min(most_s, _ends_at.get() - monotonic()))


def is_deadline_over() -> bool:
    return monotonic() > _ends_at.get()


def check_deadline() -> None:
    """Raise an UnreadableError, not for good, after the deadline."""
    if is_deadline_over():
        raise UnreadableError("the time was over before all of it was read", is_permanent=False)
