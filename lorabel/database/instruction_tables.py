"""The table of what annotators type into prompt boxes. See `lorabel/database/instructions.py`."""

from datetime import UTC, datetime

from sqlalchemy import BigInteger, Index, Text
from sqlalchemy.orm import Mapped, mapped_column

from lorabel.database.base_table import Table


class TypedInstruction(Table):
    """What an annotator has typed into a prompt box, and what was answered.

    Attributes:
        from_name: control tag of the answer.
        answer_digest: of the answer's text.
        is_accepted: whether the answer was submitted unchanged.
    """

    __tablename__ = "typed_instruction"
    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int]
    task_id: Mapped[int] = mapped_column(BigInteger)
    from_name: Mapped[str]
    instruction: Mapped[str] = mapped_column(Text)
    answer_digest: Mapped[str]
    is_accepted: Mapped[bool] = mapped_column(default=False)
    typed_at: Mapped[datetime] = mapped_column(default=lambda: datetime.now(UTC))

    __table_args__ = (Index("typed_instruction_task", "project_id", "task_id"),)
