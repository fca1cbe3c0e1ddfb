"""The base class of the tables, and what else they are made of: types, a default and an index."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, DateTime, Dialect, Index, Integer, TypeDecorator, text
from sqlalchemy.engine.default import DefaultExecutionContext
from sqlalchemy.orm import DeclarativeBase

from lorabel.database.project_keys import LabelStudioId

Json = dict[str, Any]

# What the heads of a project read of its newest annotations.
NEWEST_COLUMNS = ("project_id", "updated_at", "id", "task_id", "times_applied", "received_at")


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


def index_of_usable(name: str, columns: tuple[str, ...], condition: str) -> Index:
    """An index of the usable annotations for which a condition is true.

    A run finds in it what it reads, without the other rows, whose JSON is large. SQLite uses the index only for
    queries that contain the same conditions in the same words. It reads the columns of the conditions, so the
    index has these, too.
    """
    return Index(
        name,
        *columns,
        *("run_id", "is_deleted", "was_cancelled"),
        sqlite_where=text(f"{condition} AND is_deleted IS 0 AND was_cancelled IS 0"),
        postgresql_where=text(f"{condition} AND is_deleted IS false AND was_cancelled IS false"),
    )


def index_of_shown(name: str) -> Index:
    """An index in which the shown predictions of each version, and how many were accepted, are counted.

    As with `index_of_usable`, SQLite uses it for the same conditions in the same words.
    """
    condition = "is_accepted IS NOT NULL AND prediction_version IS NOT NULL AND is_deleted IS"
    return Index(
        name,
        *("project_id", "prediction_version", "is_accepted", "is_deleted"),
        sqlite_where=text(f"{condition} 0"),
        postgresql_where=text(f"{condition} false"),
    )


def index_of_due(name: str) -> Index:
    """An index of the projects whose heads are to be fitted, in the order of `project_heads.due`.

    As with `index_of_usable`, SQLite uses it for the same conditions in the same words.
    """
    return Index(
        name,
        *("updated_at", "id"),
        sqlite_where=text(
            "is_deleted IS 0 AND label_config IS NOT NULL AND "
            "(annotation_revision != head_revision OR label_config IS NOT head_config)"
        ),
        postgresql_where=text(
            "is_deleted IS false AND label_config IS NOT NULL AND "
            "(annotation_revision <> head_revision OR label_config IS DISTINCT FROM head_config)"
        ),
    )
