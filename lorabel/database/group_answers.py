"""What annotators did with predictions, with the group of each task: the value of a field of its data."""

import json
from collections.abc import Iterable
from typing import Any

from sqlalchemy import JSON, ColumnElement, String, Text, case, cast, func, literal, null, or_, select
from sqlalchemy.orm import Session

from lorabel.database.newest_answers import ANSWER_COLUMNS, answer_of
from lorabel.database.tables import Annotation
from lorabel.database.training_runs import IS_USABLE
from lorabel.errors import BadRequestError, storable
from lorabel.evaluation.agreement import Shown
from lorabel.labeling.task_fields import as_field_text, field_text

# Of the newest annotations, as many are read. Of each, only the field and the labels.
MOST_ANNOTATIONS = 20_000
NO_VALUE = "(no value)"
LONGEST_FIELD = 200
# Longer values, in JSON, are texts and no groups. So are they where the name of a field is shown.
LONGEST_VALUE = 1000
ROWS_AT_ONCE = 500


def shown_by_group(
    session: Session, project_id: int, field: str, limit: int = MOST_ANNOTATIONS
) -> list[tuple[str, Shown]]:
    """The group of each task whose annotator was shown a prediction, and what became of it.

    Of several annotations of a task the newest counts.

    Args:
        field: of the tasks' data; `meta.country` for a field in a field. A task without it, or with a list, an
            object or a text of more than LONGEST_VALUE there, is in the group NO_VALUE.
        limit: of the newest annotations, as many are read.

    Raises:
        BadRequestError: no field can be named so.
    """
    if not field or len(field) > LONGEST_FIELD or '"' in field or "\\" in storable(field):
        raise BadRequestError(f"{field[:60]!r} names no field; expected a field of the tasks' data, e.g. country")
    is_sqlite = session.get_bind().dialect.name == "sqlite"
    odd = null() if is_sqlite else case((_is_odd(), cast(Annotation.task_data, Text)), else_=null())
    whole = _part((field,), is_sqlite)
    nested = _part(field.split("."), is_sqlite) if "." in field else null()
    query = (
        select(
            odd,
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
        .limit(limit)
        .execution_options(yield_per=ROWS_AT_ONCE)
    )
    newest: dict[int, tuple[str, Shown]] = {}
    for odd_data, value, nested_value, *columns in session.execute(query):
        shown = answer_of(*columns).shown
        if shown is not None and shown.task_id not in newest:
            text = as_field_text(nested_value if value is None else value)
            if odd_data is not None:
                text = field_text(json.loads(odd_data), field)
            newest[shown.task_id] = (text if text and len(text) <= LONGEST_VALUE else NO_VALUE, shown)
    return list(newest.values())


def _part(names: Iterable[str], is_sqlite: bool) -> ColumnElement[Any]:
    """What a task's data has under a name, and under a name in that, if it is short.

    SQLAlchemy's own way makes the number 1 of `true` in SQLite. SQLite compares names as they are written in the
    stored JSON, which is ASCII.
    """
    part: ColumnElement[Any] = Annotation.__table__.c.task_data
    for name in names:
        key = f"$.{json.dumps(name)}" if is_sqlite else name
        part = part.op("->", return_type=JSON())(literal(key, String()))
    if not is_sqlite:
        part = case((_is_odd(), null()), else_=part)
    return case((func.length(cast(part, Text)) <= LONGEST_VALUE, part), else_=null())


def _is_odd() -> ColumnElement[bool]:
    """Whether a task's data has a character that PostgreSQL may refuse to read: zero, or a half of a pair."""
    text = cast(Annotation.task_data, Text)
    return or_(*(func.strpos(text, escape) > 0 for escape in (r"\u0000", r"\ud")))
