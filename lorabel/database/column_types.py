"""Types and defaults of columns."""

from datetime import UTC, datetime

from sqlalchemy import DateTime, Dialect, TypeDecorator
from sqlalchemy.engine.default import DefaultExecutionContext


class UtcDateTime(TypeDecorator[datetime]):
    """A timezone-aware time in UTC. SQLite stores no timezone, so it is added when a row is read."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.replace(tzinfo=UTC) if value.tzinfo is None else value


def own_id(context: DefaultExecutionContext) -> int:
    """The column `id` of the row that is inserted."""
    values: dict[str, int] = context.get_current_parameters()  # type: ignore[no-untyped-call]
    return values["id"]
