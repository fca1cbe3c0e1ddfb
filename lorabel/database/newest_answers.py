"""A project's newest annotations, each with the prediction that its annotator was shown."""

from collections.abc import Collection, Mapping, Set
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Text, case, cast, func, null, select
from sqlalchemy.orm import Session

from lorabel.database.tables import Annotation
from lorabel.database.training_runs import IS_USABLE
from lorabel.evaluation.agreement import Outcome, Shown
from lorabel.labeling.explanation_tags import without_explanations
from lorabel.labeling.named_labels import named_labels

# Longer results, as of many drawn masks, are not read; their labels count nowhere.
LONGEST_RESULT = 20_000


@dataclass(frozen=True)
class Answer:
    """An annotation of a task.

    Attributes:
        at: when it reached its newest state.
        lead_time_s: seconds that the annotator had the task open; None if not known.
        has_prediction: whether the annotator was shown a prediction.
        version: of the prediction; None, as `outcome`, where Label Studio has not told what it was.
        score: of the prediction; None if it has none.
        predicted, annotated: from_name -> labels; None where the result is not known, or too long.
    """

    task_id: int
    at: datetime
    lead_time_s: float | None
    has_prediction: bool
    version: str | None
    score: float | None
    outcome: Outcome | None
    predicted: Mapping[str, Set[str]] | None
    annotated: Mapping[str, Set[str]] | None

    @property
    def shown(self) -> Shown | None:
        """The prediction with what became of it; None if that is not known."""
        if self.outcome is None:
            return None
        return Shown(self.task_id, self.outcome, self.predicted, self.annotated)


def newest(session: Session, project_id: int, limit: int) -> list[Answer]:
    """The newest `limit` usable annotations of a project, the newest first."""
    query = (
        select(*ANSWER_COLUMNS)
        .where(Annotation.project_id == project_id, Annotation.task_id.is_not(None), *IS_USABLE)
        .order_by(Annotation.updated_at.desc(), Annotation.id.desc())
        .limit(limit)
    )
    return [answer_of(*row) for row in session.execute(query)]


def results_of(
    session: Session, project_id: int, task_ids: Collection[int], longest: int = LONGEST_RESULT
) -> dict[int, list[Any]]:
    """Task id -> the result of its newest usable annotation.

    Args:
        longest: of a result, in characters of JSON; longer ones are missing.
    """
    rows = select(Annotation.task_id, if_short(Annotation.result, longest)).where(
        Annotation.project_id == project_id, Annotation.task_id.in_(task_ids), *IS_USABLE
    )
    oldest_first = session.execute(rows.order_by(Annotation.updated_at, Annotation.id))
    return {task_id: result for task_id, result in oldest_first if isinstance(result, list)}


def if_short(column: Any, longest: int = LONGEST_RESULT) -> ColumnElement[Any]:
    """The JSON of a column; null if it is longer, so that the database does not send it."""
    return case((func.length(cast(column, Text)) <= longest, column), else_=null())


# What `answer_of` reads. What was accepted says the same as the annotation, and needs not be read twice.
ANSWER_COLUMNS = (
    Annotation.task_id,
    func.coalesce(Annotation.updated_at, Annotation.received_at),
    Annotation.lead_time_s,
    Annotation.prediction_id,
    Annotation.prediction_version,
    Annotation.prediction_score,
    Annotation.is_accepted,
    case((Annotation.is_accepted.is_(True), null()), else_=if_short(Annotation.prediction_result)),
    if_short(Annotation.result),
)


def answer_of(
    task_id: int,
    at: datetime,
    lead_time_s: float | None,
    prediction_id: int | None,
    version: str | None,
    score: float | None,
    is_accepted: bool | None,
    predicted: Any,
    annotated: Any,
) -> Answer:
    """An answer as ANSWER_COLUMNS say it."""
    outcome = None
    if is_accepted is not None and version is not None:
        emptied = isinstance(annotated, list) and not without_explanations(annotated) and predicted != []
        outcome = Outcome.UNCHANGED if is_accepted else Outcome.EMPTIED if emptied else Outcome.CORRECTED
    annotated_labels = None if annotated is None else named_labels(annotated)
    predicted_labels = None if predicted is None else named_labels(predicted)
    return Answer(
        task_id,
        at,
        lead_time_s,
        prediction_id is not None,
        version,
        score,
        outcome,
        annotated_labels if is_accepted else predicted_labels,
        annotated_labels,
    )
