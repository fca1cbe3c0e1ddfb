"""The table of annotations that are probably wrong. See `lorabel/database/label_error_reports.py`."""

from datetime import UTC, datetime

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from lorabel.database.base_table import Json, Table


class LabelErrorReport(Table):
    """The annotations of a project that the newest finished run of this kind found to be probably wrong.

    Attributes:
        run_id: the bulk run. Its row may be gone.
        version_number: number of the version that was live at the start of the run.
        checked: how many annotations were checked.
        found: how many of them are probably wrong.
        errors: the worst of these first, with the fields of `lorabel.curation.label_errors.LabelError`. At most
            `label_error_reports.MOST_STORED`.
        left_out: which labels were not checked, and why; a sentence each.
    """

    __tablename__ = "label_error_report"
    project_id: Mapped[int] = mapped_column(ForeignKey("project.id"), primary_key=True, autoincrement=False)
    run_id: Mapped[int]
    version_number: Mapped[int]
    found_at: Mapped[datetime] = mapped_column(default=lambda: datetime.now(UTC))
    checked: Mapped[int]
    found: Mapped[int]
    errors: Mapped[list[Json]]
    left_out: Mapped[list[str]]
