"""What annotators did with predictions, with the group of each task: the value of a field of its data."""

from collections.abc import Iterable
from typing import Any

from sqlalchemy import JSON, ColumnElement, String, literal, select
from sqlalchemy.orm import Session

from lorabel.database.newest_answers import ANSWER_COLUMNS, answer_of
from lorabel.database.tables import Annotation
from lorabel.database.training_runs import IS_USABLE
from lorabel.errors import BadRequestError
from lorabel.evaluation.agreement import Shown
from lorabel.labeling.task_fields import as_field_text

# Of the newest annotations, as many are read. Of each, only the field and the labels.
MOST_ANNOTATIONS = 20_000
NO_VALUE = "(no value)"
LONGEST_GROUP = 60
LONGEST_FIELD = 200


def shown_by_group(session: Session, project_id: int, field: str) -> list[tuple[str, Shown]]:
    """The group of each task whose annotator was shown a prediction, and what became of it.

    Of several annotations of a task the newest counts.

    Args:
        field: of the tasks' data; `meta.country` for a field in a field. A task without it, or with a list or an
            object there, is in the group NO_VALUE.

    Raises:
        BadRequestError: no field can be named so.
    """
    if not field or len(field) > LONGEST_FIELD or not set(field).isdisjoint('"\\\x00'):
        raise BadRequestError(
            f"{field[:LONGEST_GROUP]!r} names no field; expected a field of the tasks' data, e.g. country"
        )
    is_sqlite = session.get_bind().dialect.name == "sqlite"
    whole, nested = _part((field,), is_sqlite), _part(field.split("."), is_sqlite)
    query = (
        select(
            whole,
            nested,
            *ANSWER_COLUMNS,
        )
        .where(
            Annotation.project_id == project_id,
            Annotation.task_id.is_not(None),
            Annotation.is_accepted.is_not(None),
            *IS_USABLE,
        )
        .order_by(Annotation.updated_at.desc(), Annotation.id.desc())
        .limit(MOST_ANNOTATIONS)
    )
    newest: dict[int, tuple[str, Shown]] = {}
    for value, nested_value, *columns in session.execute(query):
        shown = answer_of(*columns).shown
        if shown is not None and shown.task_id not in newest:
            newest[shown.task_id] = (_group(nested_value if value is None else value), shown)
    return list(newest.values())


def _part(names: Iterable[str], is_sqlite: bool) -> ColumnElement[Any]:
    """What a task's data has under a name, and under a name in that.

    SQLAlchemy's own way makes the number 1 of `true` in SQLite.
    """
    part: ColumnElement[Any] = Annotation.__table__.c.task_data
    for name in names:
        key = f'$."{name}"' if is_sqlite else name
        part = part.op("->", return_type=JSON())(literal(key, String()))
    return part


def _group(value: Any) -> str:
    text = as_field_text(value)
    return NO_VALUE if not text else text[:LONGEST_GROUP]
