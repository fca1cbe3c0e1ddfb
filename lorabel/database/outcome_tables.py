"""The table of what versions answered to the tasks that they were judged on."""

from typing import Any

from sqlalchemy import JSON, BigInteger, Index
from sqlalchemy.orm import Mapped, mapped_column

from lorabel.database.base_table import Table


class TaskOutcome(Table):
    """What a version answered to a task of its evaluation, and what the version that was live then answered.

    Attributes:
        number: of the version whose run judged both.
        value: the deciding metric of this task alone, in [0, 1]; None if it has none.
        live_value: that of the version that was live, the parent.
        result: the predicted regions, without scores; None if they are not kept (`workers/outcomes.py`).
        live_result: those of the parent.
    """

    __tablename__ = "task_outcome"
    project_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    from_name: Mapped[str] = mapped_column(primary_key=True)
    task_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    value: Mapped[float | None]
    live_value: Mapped[float | None]
    result: Mapped[list[Any] | None] = mapped_column(JSON(none_as_null=True))
    live_result: Mapped[list[Any] | None] = mapped_column(JSON(none_as_null=True))

    # A task is forgotten by its id.
    __table_args__ = (Index("task_outcome_of_task", "project_id", "task_id"),)
