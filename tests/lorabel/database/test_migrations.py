"""Upgrades of databases that have data, as an older version of Lorabel left them."""

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, select, text
from sqlalchemy.orm import Session, undefer

from lorabel.database import bulk_runs, projects
from lorabel.database import store as store_module
from lorabel.database.project_keys import ProjectKey
from lorabel.database.store import Store
from lorabel.database.tables import Annotation, BulkRun, DeletedTask, EventState, ModelVersion, Table, TrainingRun
from tests.workers.events import annotation, at, recorded

pytestmark = pytest.mark.changes_schema

MIGRATIONS = Path(store_module.__file__).parent / "migrations"
TIME = "2026-11-22 05:12:01"
OLD_ROWS = (
    f"INSERT INTO project (id, label_config, hostname, live_number, is_deleted, created_at, updated_at) VALUES "
    f"(1, '<View/>', 'http://labels.example.com', 2, false, '{TIME}', '{TIME}'), "
    f"(7, '<View/>', NULL, 0, true, '{TIME}', '{TIME}')",
    f"INSERT INTO annotation (id, project_id, task_id, result, was_cancelled, ground_truth, received_at, "
    f"updated_at, is_deleted, run_id, times_applied) VALUES "
    f"(5, 1, 10, '[1]', false, true, '{TIME}', '{TIME}', false, 3, 2), "
    f"(6, 7, 11, NULL, false, false, '{TIME}', NULL, true, NULL, 1)",
    "INSERT INTO deleted_task (task_id, project_id) VALUES (12, 1)",
    f"INSERT INTO model_version (id, project_id, number, parent, state, base_models, adapters, metrics, "
    f"trained_on, created_at) VALUES (1, 1, 2, 0, 'live', '{{}}', '{{}}', '{{}}', '[5]', '{TIME}')",
    f"INSERT INTO bulk_run (id, project_id, state, reason, only_unlabeled, cursor, done, skipped, failed, "
    f"failures, label_studio_s, attempt, kills, created_at) VALUES "
    f"(1, 1, 'finished', 'x', true, 0, 0, 0, 0, '[]', 0.0, 1, 0, '{TIME}')",
)
OLD_ROWS_WITH_HEADS = (
    f"INSERT INTO project (id, label_studio_id, live_number, is_deleted, created_at, updated_at) VALUES "
    f"(1, 1, 2, false, '{TIME}', '{TIME}')",
    *(
        f"INSERT INTO model_version (id, project_id, number, parent, state, base_models, adapters, metrics, "
        f"trained_on, created_at) VALUES ({number}, 1, {number}, 0, 'live', '{{}}', '{{}}', {metrics}, '[5]', "
        f"'{TIME}')"
        for number, metrics in ((1, "'{}'"), (2, ":metrics"))
    ),
    f"INSERT INTO training_run (id, project_id, state, reason, attempt, step, steps, metrics, created_at) VALUES "
    f"(1, 1, 'finished', 'x', 1, 0, 0, :metrics, '{TIME}')",
)


def put_back(store: Store, revision: str) -> None:
    """Replace the tables by empty ones of an older revision."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with store.engine.connect() as connection, connection.begin():
        Table.metadata.drop_all(connection)
        connection.execute(text("DROP TABLE alembic_version"))
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


def test_projects_and_annotations_of_an_older_version_are_kept_and_adopted(store: Store) -> None:
    put_back(store, "0003")
    with store.write() as session:
        for statement in OLD_ROWS:
            session.execute(text(statement))
    store.migrate()
    with store.read() as session:
        rows = session.scalars(select(Annotation).order_by(Annotation.id)).all()
        assert [(row.project_id, row.id, row.task_id, row.result) for row in rows] == [
            (1, 5, 10, [1]),
            (7, 6, 11, None),
        ]
        assert (rows[0].run_id, rows[0].ground_truth, rows[0].times_applied) == (3, True, 2)
        assert [(row.project_id, row.task_id) for row in session.scalars(select(DeletedTask))] == [(1, 12)]
        assert session.scalars(select(ModelVersion.project_id)).all() == [1]
        assert session.scalars(select(BulkRun.project_id)).all() == [1]
        old = [projects.get(session, project_id) for project_id in (1, 7)]
    assert [(row.id, row.label_studio_id, row.label_studio_created_at) for row in old] == [
        (1, 1, None),
        (7, 7, None),
    ]
    adopted = projects.resolve(store, ProjectKey.parse("1.1795324321", "http://labels.example.com"))
    assert (adopted.live_version, adopted.label_config) == ("p1.v2", "<View/>")


def test_every_file_of_a_migration_begins_with_its_revision() -> None:
    """`Store.migrate` compares the name of the newest file with the database's revision."""
    scripts = ScriptDirectory(str(MIGRATIONS)).walk_revisions()
    assert all(Path(script.path).name.startswith(f"{script.revision}_") for script in scripts)


def test_a_migrated_database_is_not_upgraded_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("Alembic has nothing to do here, and takes long to import")

    monkeypatch.setattr(command, "upgrade", fail)
    store.migrate()
    with store.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '0014'"))
    with pytest.raises(AssertionError, match="nothing to do"):
        store.migrate()


def test_two_projects_may_have_annotations_and_deleted_tasks_with_the_same_ids(store: Store) -> None:
    """Also in tables that were migrated: the key of an SQLite table cannot be changed in place."""
    put_back(store, "0003")
    store.migrate()
    keys = {name: inspect(store.engine).get_pk_constraint(name) for name in ("annotation", "deleted_task")}
    assert keys["annotation"]["constrained_columns"] == ["project_id", "id"]
    assert keys["deleted_task"]["constrained_columns"] == ["project_id", "task_id"]
    with store.write() as session:
        session.add_all(Annotation(project_id=project_id, id=5) for project_id in (1, 2))
        session.add_all(DeletedTask(project_id=project_id, task_id=5) for project_id in (1, 2))


def test_bulk_runs_of_an_older_version_get_their_kind(store: Store) -> None:
    put_back(store, "0003")
    columns = "id, project_id, state, reason, only_unlabeled, strategy, cursor, done, skipped, failed, failures"
    columns += ", label_studio_s, attempt, kills, created_at"
    with store.write() as session:
        session.execute(text(OLD_ROWS[0]))
        for run_id, strategy in ((1, "NULL"), (2, "'margin'")):
            values = f"{run_id}, 1, 'finished', 'x', true, {strategy}, 9, 5, 0, 0, '[]', 0.0, 1, 0, '{TIME}'"
            session.execute(text(f"INSERT INTO bulk_run ({columns}) VALUES ({values})"))
    store.migrate()
    with store.read() as session:
        runs = bulk_runs.list_of(session, 1)
    assert [(run.kind, run.strategy, run.done) for run in runs] == [
        ("order", "margin", 5),
        ("predictions", None, 5),
    ]


RED = [{"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": ["red"]}}]
PREDICTION = {"id": 5, "result": RED, "score": 0.7, "model_version": "p1.v3"}
BULK = recorded("image-choices/14-bulk-create-webhook-annotations_created.json")
# Body of an event, and its state.
STORED_EVENTS: tuple[tuple[dict[str, Any], str], ...] = (
    (annotation(1, 10, "red", 0, prediction=PREDICTION, parent_prediction=5, lead_time=1.0), EventState.APPLIED),
    (annotation(1, 10, "blue", 9, parent_prediction=None, lead_time=3.5), EventState.APPLIED),
    (annotation(1, 10, "red", 4, parent_prediction=5, lead_time=2.0), EventState.STALE),
    (annotation(2, 20, "red", 0, prediction=PREDICTION, parent_prediction=5, lead_time=2.0), EventState.APPLIED),
    (
        annotation(3, 30, "red", 0, prediction=PREDICTION, was_cancelled=True, parent_prediction=5),
        EventState.APPLIED,
    ),
    (annotation(8, 80, "red", 0, prediction="odd", parent_prediction=None, lead_time=None), EventState.APPLIED),
    (BULK, EventState.APPLIED),
    (annotation(9, 90, "red", 0, prediction=PREDICTION), EventState.FAILED),
    (annotation(10, 100, "red", 0, prediction=PREDICTION), EventState.APPLIED),  # its row is gone
    (recorded("image-choices/12-delete-webhook-annotations_deleted.json"), EventState.APPLIED),
)
# Annotation id -> the choice and the second of the state that is stored.
STORED_STATES = {1: ("blue", 9), **dict.fromkeys((2, 3, 8, 9, 11, 12), ("red", 0))}
KNOWN = ("p1.v3", 0.7, RED)
UNKNOWN = (None, None, None)


def test_annotations_of_an_older_version_get_what_the_stored_events_tell(store: Store) -> None:
    """The events are read in pages, and the payloads of a page in several parts."""
    put_back(store, "0007")
    stale = (annotation(12, 120, "red", 0, prediction=PREDICTION, parent_prediction=5), EventState.STALE)
    first = (annotation(11, 110, "red", 0, prediction=PREDICTION, parent_prediction=5), EventState.APPLIED)
    with store.write() as session:
        insert_events(session, [first, *([stale] * 1100), *STORED_EVENTS])
        for annotation_id, (choice, second) in STORED_STATES.items():
            insert_annotation(session, annotation_id, choice, at(second))
        for bulk in BULK["annotation"]:
            insert_annotation(session, bulk["id"], "red", bulk["updated_at"])
    store.migrate()
    with store.read() as session:
        rows = session.scalars(select(Annotation).options(undefer(Annotation.prediction_result)))
        told = {
            row.id: (
                row.lead_time_s,
                row.prediction_id,
                (row.prediction_version, row.prediction_score, row.prediction_result),
                row.is_accepted,
            )
            for row in rows
        }
    assert told == {
        1: (3.5, 5, KNOWN, False),
        2: (2.0, 5, KNOWN, True),
        3: (2.455, 5, KNOWN, None),
        4: (None, 5, UNKNOWN, None),
        5: (None, 6, UNKNOWN, None),
        6: (None, 7, UNKNOWN, None),
        7: (None, 8, UNKNOWN, None),
        8: (None, None, UNKNOWN, None),
        9: (None, None, UNKNOWN, None),
        11: (2.455, 5, KNOWN, True),
        12: (2.455, 5, KNOWN, True),
    }


def insert_events(session: Session, events: Sequence[tuple[dict[str, Any], str]]) -> None:
    columns = "received_at, action, project_id, payload, state"
    statement = text(f"INSERT INTO event ({columns}) VALUES ('{TIME}', :action, 1, :payload, :state)")
    session.execute(
        statement,
        [{"action": body["action"], "payload": json.dumps(body), "state": state} for body, state in events],
    )


def insert_annotation(session: Session, annotation_id: int, choice: str, updated_at: str) -> None:
    columns = "project_id, id, task_id, result, was_cancelled, ground_truth, received_at, updated_at, is_deleted, "
    columns += "tries, times_applied"
    result = json.dumps(RED).replace("red", choice)
    values = f"1, {annotation_id}, 10, :result, :skipped, false, '{TIME}', :updated_at, false, 0, 1"
    # As SQLAlchemy writes a time: SQLite without its zone.
    time = datetime.fromisoformat(updated_at)
    written = str(time.replace(tzinfo=None)) if session.get_bind().dialect.name == "sqlite" else time
    session.execute(
        text(f"INSERT INTO annotation ({columns}) VALUES ({values})"),
        {"result": result, "skipped": annotation_id == 3, "updated_at": written},
    )


def test_annotations_of_heads_move_out_of_the_metrics_of_versions_and_runs(store: Store) -> None:
    put_back(store, "0012")
    record = {"number": 3, "labels": "l", "digest": "d", "adapter": None, "annotation_ids": [5, 6, 7]}
    metrics = json.dumps({"decision": "better", "heads": {"label": record}})
    with store.write() as session:
        for statement in OLD_ROWS_WITH_HEADS:
            session.execute(text(statement), {"metrics": metrics})
    store.migrate()
    with store.read() as session:
        versions_by_number = {row.number: row for row in session.scalars(select(ModelVersion))}
        kept = {name: value for name, value in record.items() if name != "annotation_ids"} | {"annotations": 3}
        assert versions_by_number[1].head_annotation_ids is None and versions_by_number[1].metrics == {}
        assert versions_by_number[2].head_annotation_ids == {"label": [5, 6, 7]}
        assert versions_by_number[2].metrics == {"decision": "better", "heads": {"label": kept}}
        assert session.scalars(select(TrainingRun.metrics)).all() == [versions_by_number[2].metrics]
