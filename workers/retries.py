"""Trying again after errors that may pass: a model server or a Label Studio that is away or has no time."""

import logging
from collections.abc import Callable
from time import sleep
from typing import TypeVar

from lorabel.errors import ModelServerBusyError

log = logging.getLogger(__name__)

T = TypeVar("T")
MOST_TRIES = 8


def linear_pause_s(error: Exception, failures: int) -> float:
    """1 second after the first failure, 2 after the second, and so on."""
    return failures + 1.0


def try_again(
    attempt: Callable[[], T],
    name: str,
    is_transient: Callable[[Exception], bool],
    pause_s: Callable[[Exception, int], float] = linear_pause_s,
    count_done: Callable[[], int] = lambda: 0,
) -> T:
    """Call `attempt` until it returns, and return its result.

    A busy model server does not count as a failure. It is asked again when it says, without a limit, because
    annotators go first for as long as they need it.

    Args:
        attempt: must be safe to repeat after it raised.
        name: what is attempted, for the log.
        is_transient: whether an error may pass. Any other error is raised at once.
        pause_s: (error, number of failures before it) -> seconds to wait before the next attempt.
        count_done: how much of the work is done so far. Failures are counted anew after an attempt that raised
            this number.

    Raises:
        Exception: the error of the last attempt, after MOST_TRIES failures in a row or when it is not transient.
    """
    failures = 0
    while True:
        done_before = count_done()
        try:
            return attempt()
        except ModelServerBusyError as error:
            log.info("%s waits: %s", name, error)
            wait_s = float(error.retry_after_s)
        except Exception as error:
            if not is_transient(error):
                raise
            wait_s = pause_s(error, failures)
            failures = 0 if count_done() > done_before else failures + 1
            if failures == MOST_TRIES:
                raise
            log.warning("%s is tried again in %.0f s: %s", name, wait_s, error)
        sleep(wait_s)
