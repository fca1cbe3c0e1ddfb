"""Rows of label error reports: per project what the newest finished run found. See `workers/label_errors.py`."""

from collections.abc import Sequence

from sqlalchemy.orm import Session

from lorabel.database.base_table import Json
from lorabel.database.tables import BulkRun, LabelErrorReport, now

MOST_STORED = 1000
MOST_LEFT_OUT_STORED = 100


def write(session: Session, run: BulkRun, checked: int, errors: Sequence[Json], left_out: Sequence[str]) -> None:
    """Replace the project's report, in the caller's transaction.

    Args:
        run: the run that found the errors.
        checked: how many annotations were checked.
        errors: the worst first; only MOST_STORED are stored.
        left_out: which labels were not checked, and why; only MOST_LEFT_OUT_STORED are stored.
    """
    shown = list(left_out[:MOST_LEFT_OUT_STORED])
    if len(left_out) > len(shown):
        shown.append(f"and {len(left_out) - len(shown)} more")
    report = LabelErrorReport(
        project_id=run.project_id,
        run_id=run.id,
        version_number=run.version_number or 0,
        found_at=now(),
        checked=checked,
        found=len(errors),
        errors=list(errors[:MOST_STORED]),
        left_out=shown,
    )
    session.merge(report)


def get(session: Session, project_id: int) -> LabelErrorReport | None:
    """The project's report; None if no run has finished yet."""
    return session.get(LabelErrorReport, project_id)
