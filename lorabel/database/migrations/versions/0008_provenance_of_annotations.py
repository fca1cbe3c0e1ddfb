"""What annotators were shown, whether they accepted it, and how long they took; filled from the stored events"""

import json
from collections.abc import Iterator
from datetime import datetime
from itertools import islice
from typing import Any

import sqlalchemy as sa
from alembic import op

from lorabel.database.base_table import UtcDateTime
from lorabel.labeling import provenance

revision = "0008"
down_revision = "0007"

SUBMISSIONS = ("ANNOTATION_CREATED", "ANNOTATIONS_CREATED", "ANNOTATION_UPDATED")
IDS_PER_PAGE = 1000
# The payloads that are read at once, unless a single one is longer.
CHARACTERS_PER_BATCH = 2**20
ROWS_PER_QUERY = 200

EVENT = sa.table("event", *map(sa.column, ("id", "project_id", "action", "state", "payload")))
ANNOTATION = sa.table(
    "annotation",
    sa.column("project_id", sa.Integer()),
    sa.column("id", sa.BigInteger()),
    sa.column("result", sa.JSON()),
    sa.column("was_cancelled", sa.Boolean()),
    sa.column("updated_at", UtcDateTime()),
    sa.column("lead_time_s", sa.Double()),
    sa.column("prediction_id", sa.BigInteger()),
    sa.column("prediction_version", sa.String()),
    sa.column("prediction_score", sa.Double()),
    sa.column("prediction_result", sa.JSON(none_as_null=True)),
    sa.column("is_accepted", sa.Boolean()),
)


def upgrade() -> None:
    with op.batch_alter_table("annotation", schema=None) as batch_op:
        batch_op.add_column(sa.Column("lead_time_s", sa.Double(), nullable=True))
        batch_op.add_column(sa.Column("prediction_id", sa.BigInteger(), nullable=True))
        batch_op.add_column(sa.Column("prediction_version", sa.String(), nullable=True))
        batch_op.add_column(sa.Column("prediction_score", sa.Double(), nullable=True))
        batch_op.add_column(sa.Column("prediction_result", sa.JSON(), nullable=True))
        batch_op.add_column(sa.Column("is_accepted", sa.Boolean(), nullable=True))
    connection = op.get_bind()
    for batch in _batches(connection):
        by_project: dict[int, list[dict[str, Any]]] = {}
        payloads = sa.select(EVENT.c.project_id, EVENT.c.payload).where(EVENT.c.id.in_(batch)).order_by(EVENT.c.id)
        for project_id, payload in connection.execute(payloads):
            submitted = json.loads(payload)["annotation"]
            by_project.setdefault(project_id, []).extend(submitted if isinstance(submitted, list) else [submitted])
        for project_id, annotations in by_project.items():
            remaining = iter(annotations)
            while chunk := list(islice(remaining, ROWS_PER_QUERY)):
                _fill(connection, project_id, chunk)


def _batches(connection: sa.Connection) -> Iterator[list[int]]:
    """The ids of the events that brought annotations and were applied, in order, a bounded part at a time."""
    brought = sa.select(EVENT.c.id, sa.func.length(EVENT.c.payload)).where(
        EVENT.c.action.in_(SUBMISSIONS), EVENT.c.state.in_(("applied", "stale")), EVENT.c.project_id.is_not(None)
    )
    last_id = 0
    while page := connection.execute(
        brought.where(EVENT.c.id > last_id).order_by(EVENT.c.id).limit(IDS_PER_PAGE)
    ).all():
        batch: list[int] = []
        characters = 0
        for event_id, length in page:
            if batch and characters + length > CHARACTERS_PER_BATCH:
                yield batch
                batch, characters = [], 0
            batch.append(event_id)
            characters += length
        yield batch
        last_id = page[-1][0]


def _fill(connection: sa.Connection, project_id: int, annotations: list[dict[str, Any]]) -> None:
    """Fill the rows of a project from annotations of its events, which are in the order of their arrival."""
    columns = ANNOTATION.c
    of_project = columns.project_id == project_id
    ids = {annotation["id"] for annotation in annotations}
    rows = sa.select(columns.id, columns.result, columns.was_cancelled, columns.updated_at)
    stored = {row.id: row for row in connection.execute(rows.where(of_project, columns.id.in_(ids)))}
    values: dict[int, dict[str, Any]] = {}
    for annotation in annotations:
        if (row := stored.get(annotation["id"])) is not None:
            values.setdefault(row.id, {}).update(_values(row, annotation))
    for annotation_id, new in values.items():
        if new:
            connection.execute(ANNOTATION.update().where(of_project, columns.id == annotation_id).values(new))


def _values(row: Any, annotation: dict[str, Any]) -> dict[str, Any]:
    """What an event tells about its annotation; the time only if the event brought the state that is stored."""
    values: dict[str, Any] = {}
    if row.updated_at == datetime.fromisoformat(annotation["updated_at"]):
        values["lead_time_s"] = provenance.lead_time_s(annotation)
    shown = provenance.shown_prediction(annotation)
    if shown is None:
        return values
    values["prediction_id"] = shown.id
    if shown.result is not None:
        values["prediction_version"], values["prediction_score"] = shown.model_version, shown.score
        values["prediction_result"] = shown.result
        values["is_accepted"] = provenance.is_accepted(shown.result, row.result, row.was_cancelled)
    return values
