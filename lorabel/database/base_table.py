"""The base class of the database tables, and how their columns store Python's types."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, DateTime, Dialect, Integer, TypeDecorator
from sqlalchemy.engine.default import DefaultExecutionContext
from sqlalchemy.orm import DeclarativeBase

from lorabel.database.project_keys import LabelStudioId

Json = dict[str, Any]


class UtcDateTime(TypeDecorator[datetime]):
    """A timezone-aware time in UTC. SQLite stores no timezone, so it is added when a row is read."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.replace(tzinfo=UTC) if value.tzinfo is None else value


class Table(DeclarativeBase):
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy reads this class attribute
        datetime: UtcDateTime,
        LabelStudioId: Integer,
        Json: JSON,
        list[int]: JSON,
        list[str]: JSON,
        dict[str, str]: JSON,
        list[Json]: JSON,
    }


def own_id(context: DefaultExecutionContext) -> int:
    """The column `id` of the row that is inserted."""
    values: dict[str, int] = context.get_current_parameters()  # type: ignore[no-untyped-call]
    return values["id"]
