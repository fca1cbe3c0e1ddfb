"""How an annotation came about, as Label Studio tells: what the annotator was shown, and how long it took.

    {"id": 7, "result": [...], "lead_time": 2.455, "completed_by": 1, "parent_prediction": 5,
     "prediction": {"id": 5, "result": [...], "score": 0.7, "model_version": "p1.v3"}}

`parent_prediction` is the prediction that the editor copied into the annotation. `prediction` is the one of the
version that the project's settings name, as it was when the annotation was created. It is `{}` where the settings
name an ML backend instead of a version, as they do after a backend was connected. Then Label Studio's API has the
prediction; see `workers/reconcile.py`.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lorabel.labeling.results import is_same_result

LARGEST_ID = 2**63 - 1


@dataclass(frozen=True)
class ShownPrediction:
    """The prediction that an annotator was shown.

    Attributes:
        id: its id in Label Studio.
        result: its list of regions; None if only the id is known. So are version and score then.
    """

    id: int
    model_version: str | None = None
    score: float | None = None
    result: list[Any] | None = None


def shown_prediction(
    annotation: Mapping[str, Any], predictions: Iterable[Mapping[str, Any]] = ()
) -> ShownPrediction | None:
    """The prediction from which an annotation was made; else the one of the project's version at that time.

    Args:
        annotation: as an event or Label Studio's API has it. Values of another type than expected count as
            missing, because an annotation must not be lost for them.
        predictions: predictions of the task, if they are known.

    Returns:
        None if Label Studio names no prediction.
    """
    parent, viewed = annotation.get("parent_prediction"), annotation.get("prediction")
    viewed = viewed if isinstance(viewed, dict) else {}
    parent_id = _id(parent.get("id") if isinstance(parent, dict) else parent)
    prediction_id = _id(viewed.get("id")) if parent_id is None else parent_id
    if prediction_id is None:
        return None
    for prediction in (viewed, *predictions):
        result = prediction.get("result")
        if _id(prediction.get("id")) == prediction_id and isinstance(result, list):
            version = _text(prediction.get("model_version"))
            return ShownPrediction(prediction_id, version, _number(prediction.get("score")), result)
    return ShownPrediction(prediction_id)


def is_accepted(prediction_result: list[Any] | None, annotation_result: Any, was_cancelled: bool) -> bool | None:
    """Whether an annotation says the same as the prediction that was shown.

    Returns:
        None if what was shown is not known, or if the annotator skipped the task.
    """
    if prediction_result is None or was_cancelled or not isinstance(annotation_result, list):
        return None
    return is_same_result(prediction_result, annotation_result)


def lead_time_s(annotation: Mapping[str, Any]) -> float | None:
    """Seconds that the annotator had the task open, all updates together, as the editor measures them."""
    return _number(annotation.get("lead_time"))


def _id(value: Any) -> int | None:
    is_id = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST_ID
    return value if is_id else None


def _number(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    try:
        number = float(value) if is_number else math.nan
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _text(value: Any) -> str | None:
    """A text that every database can store: without NUL and half surrogate pairs."""
    if not isinstance(value, str) or "\x00" in value or value.encode(errors="ignore").decode() != value:
        return None
    return value


def reference_id(value: Any) -> int | None:
    """The id of a user or task, which Label Studio sends either as the id or as an object with the key `id`."""
    return value.get("id") if isinstance(value, dict) else value
