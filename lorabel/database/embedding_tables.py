"""The tables of search: vectors of tasks, and the state of each project's vectors."""

from sqlalchemy import BigInteger, Index
from sqlalchemy.orm import Mapped, mapped_column

from lorabel.database.base_table import Table


class TaskEmbedding(Table):
    """The embedding of a task by the base model, for search.

    Attributes:
        contents: digest of the contents that were embedded (the addresses and texts, not the files' bytes).
        modalities: modalities of these contents, sorted and joined by spaces.
        space: names family and base model; only vectors of the same space can be compared (see `Embedding`).
        vector: length 1, little-endian float16.
        version: version of the project's `EmbeddingIndex` when the row was written.
    """

    __tablename__ = "task_embedding"
    project_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    task_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    contents: Mapped[str]
    modalities: Mapped[str]
    space: Mapped[str]
    vector: Mapped[bytes]
    version: Mapped[int]

    __table_args__ = (Index("task_embedding_version", "project_id", "version"),)


class EmbeddingIndex(Table):
    """State of a project's embeddings. Readers that keep vectors in memory learn from it what has changed.

    Attributes:
        version: counts the transactions that wrote or deleted embeddings of the project.
        deleted_at: `version` of the last deletion. A reader with an older version must read everything again.
        cursor: search has looked at every task up to this id and embedded what it could.
        space: the space of the vectors that `cursor` is about; None if there is none yet.
    """

    __tablename__ = "embedding_index"
    project_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    version: Mapped[int] = mapped_column(default=0)
    deleted_at: Mapped[int] = mapped_column(default=0)
    cursor: Mapped[int] = mapped_column(BigInteger, default=0)
    space: Mapped[str | None]
