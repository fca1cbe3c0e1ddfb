"""A row of a predict request on its way through the engine."""

import logging
import time
from collections.abc import Iterator
from concurrent.futures import Future, InvalidStateError
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from lorabel.contracts import Input, MediaRef
from lorabel.errors import LorabelError, UnreadableError
from lorabel.inference.messages import Priority, RowError, RowResult
from model_server.device_errors import is_device_lost
from model_server.family_pool import LoadedFamily
from model_server.files import File

log = logging.getLogger(__name__)


@dataclass(eq=False)
class Row:
    """A question and its way through the stages.

    Args:
        deadline: `time.monotonic` after which nobody waits for the answer.
        done: gets the result.
        files: the row's files while they are fetched.
        loaded: set once the row's family is loaded.
        example: set once the question is prepared.
    """

    question: Input
    adapter: str | None
    project: int
    priority: Priority
    deadline: float
    done: "Future[RowResult]"
    files: dict[MediaRef, "Future[File]"] = field(default_factory=dict)
    loaded: LoadedFamily | None = None
    example: Any = None

    @property
    def loaded_family(self) -> LoadedFamily:
        assert self.loaded is not None
        return self.loaded

    def is_wanted(self) -> bool:
        """Whether somebody waits for the answer. A row whose deadline has passed is finished with an error."""
        if not self.done.done() and time.monotonic() > self.deadline:
            self.finish(failed("timed out before the device was free"))
        return not self.done.done()

    def finish(self, result: RowResult) -> None:
        with suppress(InvalidStateError):  # the request was cancelled at this moment
            self.done.set_result(result)


@contextmanager
def errors_as_result(done: "Future[RowResult]", kind: str) -> Iterator[None]:
    """Make an exception in this context the row's result, so that it does not affect other rows.

    An exception that says that the device is lost is raised again, since it affects every row.
    """
    lost: Exception | None = None
    try:
        yield
    except UnreadableError as error:
        result = failed(str(error), error.is_permanent)
    except (LorabelError, ValueError, OSError) as error:
        result = failed(f"{type(error).__name__}: {error}")
    except Exception as error:
        log.exception("a row of kind %s could not be prepared", kind)
        result = failed(f"{type(error).__name__}: {error}")
        lost = error if is_device_lost(error) else None
    else:
        return
    with suppress(InvalidStateError):
        done.set_result(result)
    if lost is not None:
        raise lost


def failed(reason: str, is_permanent: bool = False) -> RowResult:
    """The result of a row that has no output."""
    return RowResult(error=RowError(reason=reason, is_permanent=is_permanent))
