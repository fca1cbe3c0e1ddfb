"""Answers of the REST routes of bulk runs, and of what they found."""

from datetime import datetime
from typing import Self

from backend.rest_responses import Record
from lorabel.database.tables import BulkRun, LabelErrorReport, version_name


class FailureRecord(Record):
    """A task that a bulk run could not read, and why."""

    task_id: int
    reason: str


class BulkRunRecord(Record):
    """A bulk run. `kind`: `predictions`, `order`, `order_renewal`, `label_errors`, `acceptance`, `acceptance_undo`
    or `index`. `done`, `skipped` and `failed` are numbers of tasks, of `total`. All tasks up to the id
    `cursor` are processed. `failures` has the first 100 failed tasks. `label_studio_s`: seconds that Label Studio
    took to answer. `strategy`: of an order."""

    id: int
    kind: str
    state: str
    reason: str
    only_unlabeled: bool
    task_ids: list[int] | None
    strategy: str | None
    version: str | None
    cursor: int
    total: int | None
    done: int
    skipped: int
    failed: int
    failures: list[FailureRecord]
    label_studio_s: float
    attempt: int
    error: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    @classmethod
    def of(cls, row: BulkRun) -> Self:
        """The record of a bulk run."""
        number = row.version_number
        return cls(
            version=None if number is None else version_name(row.project_id, number),
            **{name: getattr(row, name) for name in cls.model_fields if name != "version"},
        )


class BulkRunList(Record):
    """The bulk runs of a project, the newest first."""

    runs: list[BulkRunRecord]


class LabelErrorRecord(Record):
    """An annotation that is probably wrong. `score`: from 0 (certainly wrong) to 1 (certainly right). If several
    labels may fit, `given` is empty for a label that is missing, and `suggested` for a label that is too much."""

    from_name: str
    task_id: int
    annotation_id: int
    given: str
    suggested: str
    score: float


class LabelErrorReportRecord(Record):
    """What the newest finished run found. `version`: the version that was live at its start; the result does not
    depend on it, since the base model's vectors are compared. `checked`: number of annotations that were checked.
    `found`: how many of them are probably wrong; `errors` has the worst 1000 of these, the worst first.
    `left_out`: which labels were not checked, and why."""

    run_id: int
    version: str
    found_at: datetime
    checked: int
    found: int
    left_out: list[str]
    errors: list[LabelErrorRecord]

    @classmethod
    def of(cls, row: LabelErrorReport) -> Self:
        """The record of a report."""
        return cls(
            version=version_name(row.project_id, row.version_number),
            errors=[LabelErrorRecord.model_validate(error) for error in row.errors],
            **{name: getattr(row, name) for name in cls.model_fields if name not in ("version", "errors")},
        )


class LabelErrorList(Record):
    """`run`: the newest run that looks for label errors, null if there was none. `report`: what the newest
    finished run found, null if none has finished."""

    run: BulkRunRecord | None
    report: LabelErrorReportRecord | None
