"""The questions of one prediction to the model server, in pieces that leave time for an answer.

One piece after another: when the time is up, what was answered counts and the rest is asked for again.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from time import monotonic

from pydantic import ValidationError

from lorabel.contracts import Input
from lorabel.errors import ModelServerError
from lorabel.inference.messages import PredictRow, Priority, RowResult
from lorabel.inference.model_client import ModelClient
from lorabel.problems.base import Prediction, Problem, TaskData

log = logging.getLogger(__name__)

ROWS_PER_REQUEST = 256
LEAST_TIME_S = 0.05


@dataclass(frozen=True)
class Question:
    """What one binding wants to know about one task; `adapter` None asks the base model. `temperature`: of the
    output's probabilities, as the version was calibrated."""

    binding: Problem
    data: TaskData
    contract: Input
    adapter: str | None
    temperature: float = 1.0

    def row(self) -> PredictRow:
        return PredictRow(
            kind=self.contract.kind, input=self.contract.model_dump(mode="json"), adapter=self.adapter
        )


@dataclass(frozen=True)
class Unreadable:
    """Why there is no answer, and whether asking again cannot help.

    `is_late`: nobody got to it, since the time was up or the model server failed half-way.
    """

    reason: str
    is_permanent: bool
    is_late: bool = False


@dataclass(frozen=True)
class PredictionCaller:
    """Who asks the model server, and until when (by `time.monotonic()`).

    `is_gone`: whether nobody waits for the answer any more.
    """

    client: ModelClient
    project_id: int
    priority: Priority
    deadline: float
    is_gone: Callable[[], bool] | None = None


def ask(caller: PredictionCaller, questions: Sequence[Question | Unreadable]) -> list[Prediction | Unreadable]:
    """One answer per question, in order; those that come as Unreadable stay as they are.

    Raises:
        ModelServerError: nothing at all could be asked. A failure later on leaves the rest unread.
    """
    answers: list[Prediction | Unreadable] = [one for one in questions if isinstance(one, Unreadable)]
    asked = [one for one in questions if isinstance(one, Question)]
    found: list[Prediction | Unreadable] = []
    for start in range(0, len(asked), ROWS_PER_REQUEST):
        piece = asked[start : start + ROWS_PER_REQUEST]
        try:
            results = _ask_piece(caller, piece)
        except ModelServerError as error:
            if not found:
                raise
            log.warning("%d of %d questions stay unanswered: %s", len(asked) - start, len(asked), error)
            found += [Unreadable(str(error), is_permanent=False, is_late=True)] * (len(asked) - start)
            break
        is_late = monotonic() >= caller.deadline
        found += [_read(question, result, is_late) for question, result in zip(piece, results, strict=True)]
    unread, answered = iter(answers), iter(found)
    return [next(unread) if isinstance(one, Unreadable) else next(answered) for one in questions]


def _ask_piece(caller: PredictionCaller, piece: Sequence[Question]) -> list[RowResult]:
    timeout_s = caller.deadline - monotonic()
    if timeout_s < LEAST_TIME_S:
        raise ModelServerError("the time for one prediction is up (PREDICT_TIMEOUT_S)")
    rows = [question.row() for question in piece]
    return caller.client.predict(rows, timeout_s, caller.project_id, caller.priority, caller.is_gone)


def _read(question: Question, result: RowResult, is_late: bool) -> Prediction | Unreadable:
    if result.error is not None:
        is_permanent = result.error.is_permanent
        return Unreadable(result.error.reason, is_permanent, is_late and not is_permanent)
    try:
        output = question.binding.output_type.model_validate(result.output)
        prediction = question.binding.prediction(output, question.data)
        if question.temperature != 1:
            # Only how sure it is changes: what was predicted is what was evaluated.
            calibrated = question.binding.calibrated(output, question.temperature)
            surer = question.binding.prediction(calibrated, question.data)
            prediction = replace(surer, regions=prediction.regions)
    except (ValidationError, ValueError, LookupError) as error:
        return _broken(question, f"{type(error).__name__}: {error}")
    if not isfinite(prediction.score):
        return _broken(question, f"score {prediction.score}")
    return prediction


def _broken(question: Question, what: str) -> Unreadable:
    reason = f"the model server's answer for control tag {question.binding.from_name!r} makes no sense: {what}"
    log.error(reason)
    return Unreadable(reason, is_permanent=False)
