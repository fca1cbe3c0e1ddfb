"""The tables of fitted heads: what they are fitted on, and the heads that answer."""

from datetime import datetime

from sqlalchemy import BigInteger, Text
from sqlalchemy.orm import Mapped, mapped_column

from lorabel.database.base_table import Json, Table


class TaskFeatures(Table):
    """What the model server computed of an annotated task for one control tag, see `lorabel.feature_contracts`.

    Attributes:
        question: digest of the question for the features: contents (their addresses and texts, not the files'
            bytes) and labels. A row with another digest is out of date.
        space: names family and base model.
        dim: number of dimensions of a content's features; 0 if they could not be computed.
        features: (contents, dim) little-endian float16.
        logits: (labels,) little-endian float32.
        lines: the lines of text in a picture as they were read; None for everything else.
        reason: why they could not be computed; None if they were.
        written_at: when the model server answered.
    """

    __tablename__ = "task_features"
    project_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    from_name: Mapped[str] = mapped_column(primary_key=True)
    task_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    question: Mapped[str]
    space: Mapped[str]
    dim: Mapped[int]
    features: Mapped[bytes]
    logits: Mapped[bytes]
    lines: Mapped[list[Json] | None]
    reason: Mapped[str | None] = mapped_column(Text)
    written_at: Mapped[datetime]


class ProjectHead(Table):
    """The fitted head that answers for a control tag of a project.

    Attributes:
        folder: where its file is: `p<project>.h<n>`, or `p<project>.v<n>` after a version was made live by hand.
        labels: digest of everything in a question but its contents. The head answers such questions only.
        digest: of the file.
        adapter: name of the adapter whose features the head was fitted on, beside the base model's; None for the
            base model alone.
        annotation_ids: the annotations that it was fitted on, sorted. Thousands of them: loaded only on request.
        fitted_at: when it was fitted.
    """

    __tablename__ = "project_head"
    project_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    from_name: Mapped[str] = mapped_column(primary_key=True)
    folder: Mapped[str]
    labels: Mapped[str]
    digest: Mapped[str]
    adapter: Mapped[str | None]
    annotation_ids: Mapped[list[int]] = mapped_column(deferred=True)
    fitted_at: Mapped[datetime]
