"""The table of what rules have removed from predictions. See `lorabel/database/rule_effects.py`."""

from datetime import UTC, datetime

from sqlalchemy import BigInteger
from sqlalchemy.orm import Mapped, mapped_column

from lorabel.database.base_table import Json, Table


class RuleEffect(Table):
    """What a rule has removed from the newest prediction of a task. There is no row where it removed nothing.

    Attributes:
        rule: its name.
        version: of the prediction, with the number of the rules: `p12.v3.h7.r2`.
        count: how many labels, regions and texts were removed.
        removals: the first of them, with the fields of `lorabel.labeling.rules.Removal` but the rule.
    """

    __tablename__ = "rule_effect"
    project_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    task_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    rule: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[str]
    count: Mapped[int]
    removals: Mapped[list[Json]]
    predicted_at: Mapped[datetime] = mapped_column(default=lambda: datetime.now(UTC))
