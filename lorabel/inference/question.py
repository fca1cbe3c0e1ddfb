"""A question about one task to the model server, and how its answer is read: checked, with calibrated scores."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import Any, TypeVar

from pydantic import ValidationError

from lorabel.contracts import Input
from lorabel.errors import UnreadableError, cut
from lorabel.inference.messages import PredictRow
from lorabel.inference.requests import Output, Unreadable
from lorabel.labeling.regions import without_scores
from lorabel.media.deadline import is_deadline_over
from lorabel.problems.base import Prediction, Problem, TaskData

log = logging.getLogger(__name__)

Read = TypeVar("Read")


@dataclass(frozen=True)
class Question:
    """What one binding asks the model about one task.

    Attributes:
        adapter: name of the adapter that answers; None for the base model.
        head: name of the fitted head that answers; None for none.
        temperature: for the output's probabilities, as the version was calibrated; None if it was not.
        threshold: smallest score of a region that is shown; None: as the problem or the settings say.
        by_label: temperatures of labels that have one of their own.
        offset: see `Problem.has_offset`.
    """

    binding: Problem
    data: TaskData
    contract: Input
    adapter: str | None
    head: str | None = None
    temperature: float | None = None
    threshold: float | None = None
    by_label: dict[str, float] = field(default_factory=dict)
    offset: float = 0.0

    def row(self) -> PredictRow:
        """The question as a row of a request to the model server."""
        contract = self.contract.model_dump(mode="json")
        return PredictRow(kind=self.contract.kind, input=contract, adapter=self.adapter, head=self.head)


def is_late(error: UnreadableError) -> bool:
    """Whether the time was up, and not the task at fault."""
    return not error.is_permanent and is_deadline_over()


def read_answer(
    question: Question, answer: Output | Unreadable, read: Callable[[Question, Any], Read]
) -> Read | Unreadable:
    """Read the model server's output, which may be wrong in any way.

    Args:
        read: what becomes of an instance of the problem's `output_type`.
    """
    if isinstance(answer, Unreadable):
        return answer
    try:
        return read(question, question.binding.output_type.model_validate(answer))
    except UnreadableError as error:
        return Unreadable(str(error), error.is_permanent, is_late(error))
    except (ValidationError, ValueError, LookupError) as error:
        return _broken(question, f"{type(error).__name__}: {error}")


def prediction_of(question: Question, output: Any) -> Prediction:
    """Return the prediction with calibrated scores.

    Calibration changes only the scores: the regions are those that were evaluated.

    Raises:
        UnreadableError, ValueError, LookupError: the output cannot be used.
    """
    binding, calibrated_output = question.binding, shown_output(question, output)
    if question.threshold is not None and binding.has_threshold:
        return _finite(binding.prediction(calibrated_output, question.data))
    prediction = binding.prediction(output, question.data)
    if calibrated_output is output:
        return _finite(prediction)
    calibrated = binding.prediction(calibrated_output, question.data)
    is_same = without_scores(calibrated.regions) == without_scores(prediction.regions)
    return _finite(calibrated if is_same else replace(calibrated, regions=prediction.regions))


def shown_output(question: Question, output: Any) -> Any:
    """Return the output with calibrated scores, and with the project's threshold, which is for these.

    The output itself is returned where nothing changes.
    """
    binding, temperature = question.binding, question.temperature
    if temperature is None:
        temperature = binding.default_temperature(output)
    if question.by_label:
        calibrated = binding.calibrated_by_label(
            output, temperature, question.by_label, is_for_threshold=question.threshold is not None
        )
    elif binding.has_offset and question.offset:
        calibrated = binding.calibrated_with_offset(output, temperature, question.offset)
    else:
        calibrated = output if temperature == 1 else binding.calibrated(output, temperature)
    if question.threshold is None or not binding.has_threshold:
        return calibrated
    return binding.with_threshold(calibrated, question.threshold)


def _finite(prediction: Prediction) -> Prediction:
    if not isfinite(prediction.score):
        raise ValueError(f"score {prediction.score}")
    return prediction


def _broken(question: Question, what: str) -> Unreadable:
    reason = cut(
        f"the model server's answer for control tag {question.binding.from_name!r} makes no sense: {what}"
    )
    log.error(reason)
    return Unreadable(reason, is_permanent=False)
