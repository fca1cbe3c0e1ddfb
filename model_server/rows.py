"""A row of a predict request on its way through the engine."""

import logging
import textwrap
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from lorabel.contracts import Input, MediaRef, Modality, media_of
from lorabel.errors import MOST_REASON_CHARACTERS, LorabelError, SettingsError, UnreadableError
from lorabel.inference.messages import PredictRow, Priority, RowError, RowResult
from lorabel.media.deadline import deadline
from lorabel.media.kept_frames import shared_frames
from model_server.device_errors import is_device_lost, is_out_of_memory
from model_server.family_pool import LoadedFamily
from model_server.files import File

log = logging.getLogger(__name__)


@dataclass(eq=False)
class Row:
    """A question and its way through the stages.

    Args:
        head: name of the fitted head that answers; None for none.
        deadline: `time.monotonic` after which nobody waits for the answer.
        done: gets the result.
        files: the row's files while they are fetched.
        held: files that need not be fetched, since the row that this one is a part of has them.
        loaded: set once the row's family is loaded.
        example: set once the question is prepared.
        shared_videos: addresses of videos that several rows of the request are about.
    """

    question: Input
    adapter: str | None
    head: str | None
    project: int
    priority: Priority
    deadline: float
    done: "Future[RowResult]"
    files: dict[MediaRef, "Future[File]"] = field(default_factory=dict)
    held: dict[MediaRef, "Future[File]"] = field(default_factory=dict)
    loaded: LoadedFamily | None = None
    example: Any = None
    shared_videos: frozenset[str] = frozenset()

    @property
    def loaded_family(self) -> LoadedFamily:
        assert self.loaded is not None
        return self.loaded

    @property
    def shares_video(self) -> bool:
        """Whether other rows of the request are about its video."""
        return any(media.url in self.shared_videos for media in media_of(self.question))

    def is_wanted(self) -> bool:
        """Whether somebody waits for the answer. A row whose deadline has passed is finished with an error."""
        if not self.done.done() and time.monotonic() > self.deadline:
            self.finish(failed("timed out before the device was free"))
        return not self.done.done()

    def finish(self, result: RowResult) -> None:
        with suppress(InvalidStateError):  # the request was cancelled at this moment
            self.done.set_result(result)


def shared_videos(rows: Sequence[PredictRow]) -> frozenset[str]:
    """The addresses of the videos that several rows are about."""
    counts = Counter(url for row in rows for url in set(_videos(row.input.get("contents"))))
    return frozenset(url for url, count in counts.items() if count > 1)


def _videos(contents: Any) -> Iterator[str]:
    """The addresses of the videos among the contents of a row, which may be wrong in any way."""
    for content in contents if isinstance(contents, list) else ():
        media = content.get("media") if isinstance(content, dict) else None
        if isinstance(media, dict) and content.get("modality") == Modality.VIDEO:
            yield str(media.get("url"))


def rows_of(row: Row) -> int:
    """How many rows of a batch on the device it takes, see `Family.batch_rows`."""
    return row.loaded_family.family.batch_rows(row.example)


def batch_rows(batch: Sequence[Row]) -> int:
    """How many rows a batch has on the device."""
    return sum(map(rows_of, batch))


@contextmanager
def errors_as_result(done: "Future[RowResult]", kind: str) -> Iterator[None]:
    """Make an exception in this context the row's result, so that it does not affect other rows.

    An exception that says that the device is lost is raised again, since it affects every row.
    """
    try:
        yield
    except Exception as error:
        if not isinstance(error, LorabelError):
            log.exception("a row of kind %s could not be prepared", kind)
        with suppress(InvalidStateError):
            done.set_result(failure_of(error))
        if is_device_lost(error):
            raise


@contextmanager
def preparing(row: Row) -> Iterator[None]:
    """A context in which a row is prepared: as long as it is wanted, and with the frames of other rows' videos."""
    sharing = shared_frames(row.shares_video)
    with errors_as_result(row.done, row.question.kind), deadline(row.deadline), sharing:
        yield


def failure_of(error: Exception) -> RowResult:
    """The result of a row that failed.

    Its reason is a short line. It quotes messages of our own and of the device. Other messages may quote the file
    that was read, so the reason gives their type alone.
    """
    text = type(error).__name__
    if isinstance(error, UnreadableError | SettingsError):
        text = str(error)
    elif isinstance(error, LorabelError) or is_device_lost(error) or is_out_of_memory(error):
        text += f": {error}"
    else:
        text += " in the model server, whose log has more"
    is_permanent = isinstance(error, UnreadableError) and error.is_permanent
    return failed(textwrap.shorten(text, MOST_REASON_CHARACTERS, placeholder=" ..."), is_permanent)


def failed(reason: str, is_permanent: bool = False) -> RowResult:
    """The result of a row that has no output."""
    return RowResult(error=RowError(reason=reason, is_permanent=is_permanent))
