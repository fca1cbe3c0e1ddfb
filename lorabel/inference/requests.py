"""Sends rows to the model server in pieces, before a deadline. Predictions and embeddings both use it.

The pieces go one after another. When the time is up, the rows that were answered count, and the rest is late. A
piece that the model server finds too large is halved.
"""

import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any

from lorabel.errors import ModelServerError, RequestTooLargeError, cut
from lorabel.inference import request_body
from lorabel.inference.messages import PredictRow, Priority, RowResult
from lorabel.inference.model_client import ModelClient

log = logging.getLogger(__name__)

ROWS_PER_REQUEST = 256
# Pictures may be in the rows as data URLs.
BYTES_PER_REQUEST = 16 * 2**20
MIN_TIME_S = 0.05

# A row's output as JSON; None if the model server sent neither an output nor an error.
Output = dict[str, Any] | None


@dataclass(frozen=True)
class Unreadable:
    """Why there is no answer.

    Attributes:
        is_permanent: whether the reason will never pass, so that asking again cannot help.
        is_late: whether the row was not computed because the time was up or the model server failed half-way.
    """

    reason: str
    is_permanent: bool
    is_late: bool = False


@dataclass(frozen=True)
class PredictionCaller:
    """For whom the model server is asked, and until when.

    Attributes:
        deadline: in seconds of `time.monotonic()`.
        is_gone: returns whether nobody waits for the answer any more. None if nobody can leave.
    """

    client: ModelClient
    project_id: int
    priority: Priority
    deadline: float
    is_gone: Callable[[], bool] | None = None


def send(caller: PredictionCaller, rows: Sequence[PredictRow], late_reason: str) -> list[Output | Unreadable]:
    """Ask the model server about all rows.

    Args:
        late_reason: why there is no answer, for rows that were not sent before the deadline.

    Returns:
        One output or Unreadable per row, in order. After a failure, the remaining rows are late.

    Raises:
        ModelServerError: the first piece failed, so there is no answer at all.
    """
    answers: list[Output | Unreadable] = []
    pieces = deque(request_body.pieces(rows, ROWS_PER_REQUEST, BYTES_PER_REQUEST))
    while pieces:
        piece = pieces.popleft()
        try:
            results = _send_piece(caller, piece, late_reason)
        except RequestTooLargeError as error:
            if half := len(piece) // 2:
                pieces.extendleft((piece[half:], piece[:half]))
            else:
                answers.append(Unreadable(cut(str(error)), is_permanent=True))
            continue
        except ModelServerError as error:
            if not answers:
                raise
            missing = len(rows) - len(answers)
            log.warning("%d of %d rows stay unanswered: %s", missing, len(rows), error)
            return answers + [Unreadable(cut(str(error)), is_permanent=False, is_late=True)] * missing
        is_late = monotonic() >= caller.deadline
        answers += [_output(result, is_late) for result in results]
    return answers


def _send_piece(caller: PredictionCaller, piece: Sequence[PredictRow], late_reason: str) -> list[RowResult]:
    timeout_s = caller.deadline - monotonic()
    if timeout_s < MIN_TIME_S:
        raise ModelServerError(late_reason)
    return caller.client.predict(piece, timeout_s, caller.project_id, caller.priority, caller.is_gone)


def _output(result: RowResult, is_late: bool) -> Output | Unreadable:
    """At the deadline the model server answers with an error for each row that it has not computed."""
    if result.error is None:
        return result.output
    is_permanent = result.error.is_permanent
    return Unreadable(result.error.reason, is_permanent, is_late and not is_permanent)
