"""The table of tasks that cannot be read. See `lorabel/inference/unreadable_tasks.py`."""

from datetime import UTC, datetime

from sqlalchemy import BigInteger, Text
from sqlalchemy.orm import Mapped, mapped_column

from lorabel.database.base_table import Table


class UnreadableTask(Table):
    """A task that the last prediction could not read. The row is deleted when a later prediction reads the task.

    `is_permanent`: trying again is useless, e.g. because the file is broken.
    """

    __tablename__ = "unread_task"
    project_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    task_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    reason: Mapped[str] = mapped_column(Text)
    is_permanent: Mapped[bool]
    seen_at: Mapped[datetime] = mapped_column(default=lambda: datetime.now(UTC))
