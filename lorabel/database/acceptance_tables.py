"""The tables of acceptances: predictions that became annotations since cases proved that enough are right."""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, false
from sqlalchemy.orm import Mapped, mapped_column

from lorabel.database.base_table import Json, Table


class AcceptedState(StrEnum):
    """What became of a task that was to be accepted.

    `planned`: Label Studio has not been asked to write it yet, or its answer was lost. `written`: the annotation
    is in Label Studio. `annotated`: somebody had annotated or skipped the task before. `removed`: undone.
    `changed`: not undone, since somebody has changed the annotation. `gone`: somebody had deleted it before it was
    undone. `shown`: a prediction for review is in Label Studio, and no annotation.
    """

    PLANNED = "planned"
    WRITTEN = "written"
    SHOWN = "shown"
    ANNOTATED = "annotated"
    REMOVED = "removed"
    CHANGED = "changed"
    GONE = "gone"


class Acceptance(Table):
    """What cases prove about the predictions of a project, and what was accepted for it.

    Attributes:
        run_id: the bulk run that looks for the scores, and writes. Its row may be gone.
        undo_run_id: the bulk run that undoes it; None if nobody has asked for it.
        precision: the part of the accepted tasks that must be right.
        confidence: the least probability of that.
        is_together: whether the promise is about all labels together; else about each label by itself.
        is_written: whether annotations were asked for; else scores alone, or predictions for review.
        review_size: how many of the tasks people are asked to review, of which all get predictions; None if no
            review was asked for.
        tab_id: of the tab in Label Studio's Data Manager that lists these; None until it is there.
        user_email: of the user whose annotations they become.
        writer_id: user id in Label Studio of whose token writes them.
        user_id: of the user with `user_email`.
        version: what the open tasks were predicted with; None until then.
        cases_from: how the cases were got, a sentence.
        labels: by label what is proved, with the fields of `lorabel.curation.proven_precision.Proof`.
        warnings: what speaks against the promise; a sentence each.
    """

    __tablename__ = "acceptance"
    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("project.id"))
    run_id: Mapped[int]
    undo_run_id: Mapped[int | None]
    precision: Mapped[float]
    confidence: Mapped[float]
    is_together: Mapped[bool]
    is_written: Mapped[bool]
    review_size: Mapped[int | None]
    tab_id: Mapped[int | None] = mapped_column(BigInteger)
    user_email: Mapped[str | None]
    user_id: Mapped[int | None]
    writer_id: Mapped[int | None]
    version: Mapped[str | None]
    cases_from: Mapped[str | None]
    labels: Mapped[list[Json] | None] = mapped_column(JSON(none_as_null=True))
    warnings: Mapped[list[str]] = mapped_column(default=list)
    created_at: Mapped[datetime] = mapped_column(default=lambda: datetime.now(UTC))

    __table_args__ = (Index("acceptance_project", "project_id"), Index("acceptance_run", "run_id"))


class AcceptedTask(Table):
    """A task whose prediction was accepted.

    Attributes:
        result: the annotation's list of regions as it was sent, or the prediction's. The ids of its regions are in
            no other annotation.
        annotation_id: in Label Studio; None until it is known.
        score: of the prediction; None where it is not known, as of what was accepted before scores were kept.
        is_sampled: whether the task was drawn for review.
        state: an `AcceptedState`.
    """

    __tablename__ = "accepted_task"
    acceptance_id: Mapped[int] = mapped_column(ForeignKey("acceptance.id"), primary_key=True, autoincrement=False)
    task_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    project_id: Mapped[int]
    result: Mapped[list[Any]] = mapped_column(JSON)
    annotation_id: Mapped[int | None] = mapped_column(BigInteger)
    score: Mapped[float | None]
    is_sampled: Mapped[bool] = mapped_column(default=False, server_default=false())
    state: Mapped[str]

    __table_args__ = (Index("accepted_task_of_project", "project_id", "task_id"),)
