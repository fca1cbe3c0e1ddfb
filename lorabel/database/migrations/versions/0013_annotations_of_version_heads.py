"""The annotations that heads of versions were fitted on: in a column of versions, not in metrics, nor in runs"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"

VERSION = sa.table(
    "model_version",
    sa.column("id", sa.Integer()),
    sa.column("metrics", sa.JSON()),
    sa.column("head_annotation_ids", sa.JSON(none_as_null=True)),
)
RUN = sa.table("training_run", sa.column("id", sa.Integer()), sa.column("metrics", sa.JSON()))


def upgrade() -> None:
    with op.batch_alter_table("model_version", schema=None) as batch_op:
        batch_op.add_column(sa.Column("head_annotation_ids", sa.JSON(), nullable=True))
    _move(VERSION)
    _move(RUN)


def _move(table: sa.TableClause) -> None:
    """One row after the other: a row may have megabytes."""
    connection = op.get_bind()
    for row_id in connection.scalars(sa.select(table.c.id)).all():
        metrics = connection.scalar(sa.select(table.c.metrics).where(table.c.id == row_id))
        records: dict[str, dict[str, Any]] = (metrics or {}).get("heads", {})
        ids = {tag: record.pop("annotation_ids") for tag, record in records.items() if "annotation_ids" in record}
        if not ids:
            continue
        for tag, annotation_ids in ids.items():
            records[tag]["annotations"] = len(annotation_ids)
        moved = {"head_annotation_ids": ids} if table is VERSION else {}
        connection.execute(sa.update(table).where(table.c.id == row_id).values(metrics=metrics, **moved))
