"""The rows that `benchmarks.pages` fills a database with.

One project has half of the annotations, and the others share the rest. The rows of the first project are written
here; the database copies them, and makes the annotations.
"""

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from sqlalchemy import Connection, insert, select, text

from lorabel.contracts import Content, EmbedInput, Modality
from lorabel.database import label_error_reports, rules, task_embeddings
from lorabel.database.acceptance_tables import AcceptedState, AcceptedTask
from lorabel.database.store import Store
from lorabel.database.tables import (
    Acceptance,
    BulkRun,
    BulkRunKind,
    ModelVersion,
    Project,
    RuleEffect,
    RunState,
    TaskOutcome,
    TrainingRun,
    VersionState,
)
from lorabel.database.task_embeddings import TaskVector

LABELS = tuple(f"label {number}" for number in range(20))
CONFIG = (
    '<View><Image name="image" value="$image"/><Choices name="kind" toName="image">'
    + "".join(f'<Choice value="{label}"/>' for label in LABELS)
    + "</Choices></View>"
)
# Each annotation takes one of the labels by its number; of ten predictions one has another label. An annotation
# arrives every 30 seconds, the last one now. Some tasks of the first project have two. The newest 2000 are new.
ANNOTATIONS = """
WITH RECURSIVE series(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM series WHERE n < :annotations),
drawn AS (
    SELECT n, n / 3 % 20 AS truth, CASE WHEN n % 10 = 0 THEN n / 7 % 20 ELSE n / 3 % 20 END AS guess
    FROM series
)
INSERT INTO annotation (
    project_id, id, task_id, completed_by, task_data, result, lead_time_s, prediction_id, prediction_version,
    prediction_result, is_accepted, updated_at, received_at, run_id, was_cancelled, ground_truth, is_deleted,
    tries, times_applied
)
SELECT
    CASE WHEN n % 2 = 1 THEN 1 ELSE n / 2 % :projects + 1 END, n, CASE WHEN n % 100 = 1 THEN n + 2 ELSE n END,
    n / 2 % 20 + 1,
    {json}('{{"image": "http://pictures.test/' || n || '.jpg", "country": "'
        || CASE n / 2 % 4 WHEN 0 THEN 'DE' WHEN 1 THEN 'FR' WHEN 2 THEN 'PL' ELSE 'NO' END || '"}}'{as_json}),
    {json}('[{{"from_name": "kind", "to_name": "image", "type": "choices", "value": {{"choices": ["label '
        || truth || '"]}}}}]'{as_json}),
    5.0, n, 'p1.v' || n % 50 || '.h' || n % 500,
    {json}('[{{"from_name": "kind", "to_name": "image", "type": "choices", "value": {{"choices": ["label '
        || guess || '"]}}}}]'{as_json}),
    truth = guess, {at}, {at}, CASE WHEN n < :annotations - 2000 THEN 1 END, FALSE, FALSE, FALSE, 0, 0
FROM drawn
"""
POSTGRESQL = {
    "json": "CAST",
    "as_json": " AS JSON",
    "at": "now() - (:annotations - n) * interval '30 seconds'",
}
SQLITE = {
    "json": "",
    "as_json": "",
    "at": "strftime('%Y-%m-%d %H:%M:%f000', 'now', (30 * (n - :annotations)) || ' seconds')",
}
ALL_VISIBLE = "SELECT relallvisible = relpages FROM pg_class WHERE oid = 'annotation'::regclass"
MOST_VACUUMS = 60
ANNOTATORS = 20
# Of the first project: tasks that search has embedded, from which a rule removed something, that were accepted.
EMBEDDED, DIMENSIONS = 20_000, 768
AFFECTED = 20_000
ACCEPTANCES, ACCEPTED, SAMPLED = 5, 4000, 200
# Label Studio's events are kept for a week; one arrives every 30 seconds.
EVENTS = 20_160
RULES = """[[exclusive]]
name = "one kind"
labels = ["label 1", "label 2"]

[[field]]
name = "none in the north"
field = "country"
is = ["NO"]
forbidden = ["label 3"]
"""
EVENT_ROWS = """
WITH RECURSIVE series(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM series WHERE n < :events)
INSERT INTO event (action, payload, project_id, state, received_at, applied_at)
SELECT 'ANNOTATION_CREATED',
    '{{"action": "ANNOTATION_CREATED", "project": {{"id": 1}}, "task": {{"id": ' || n || ', "data": {{"image": '
    || '"http://pictures.test/' || n || '.jpg"}}}}, "annotation": {{"id": ' || n || ', "completed_by": '
    || (n % 20 + 1) || ', "result": []}}}}',
    CASE WHEN n % 2 = 1 THEN 1 ELSE n / 2 % :projects + 1 END, 'applied', {at}, {at}
FROM series
"""


def fill(store: Store, projects: int, versions: int, annotations: int) -> None:
    """Insert the rows. The first project has half of the annotations.

    The rows of the first project are written here; the database copies them, and makes the annotations.
    """
    per_project = versions // projects
    with store.write() as session:
        session.execute(
            insert(Project),
            [{"id": n, "label_config": CONFIG, "live_number": per_project} for n in range(1, projects + 1)],
        )
        numbers = range(1, per_project + 1)
        session.execute(insert(TrainingRun), [_run(number) for number in numbers])
        session.execute(insert(ModelVersion), [_version(number, per_project) for number in numbers])
        for number in numbers:
            session.execute(insert(TaskOutcome), _outcomes(number))
        session.execute(insert(BulkRun), [_bulk_run(number) for number in numbers])
    for table in (TrainingRun, ModelVersion, BulkRun):
        with store.write() as session:
            session.execute(_copy_to_other_projects(table, per_project))
    with store.write() as session:
        session.execute(_outcomes_of_other_projects())
    with store.write() as session:
        rows = ANNOTATIONS.format(**(SQLITE if store.is_sqlite else POSTGRESQL))
        session.execute(text(rows), {"annotations": annotations, "projects": projects})
    _fill_first_project(store, projects, per_project)
    with store.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("ANALYZE" if store.is_sqlite else "VACUUM ANALYZE")
        if not store.is_sqlite:
            _make_visible(connection)


def _make_visible(connection: Connection) -> None:
    """What others still look at is not marked as visible to all; autovacuum would come again for it."""
    for _ in range(MOST_VACUUMS):
        if connection.exec_driver_sql(ALL_VISIBLE).scalar_one():
            return
        time.sleep(1.0)
        connection.exec_driver_sql("VACUUM annotation")
    raise RuntimeError(f"an older transaction is open: annotations are not visible to all after {MOST_VACUUMS} s")


def _fill_first_project(store: Store, projects: int, newest_run: int) -> None:
    """What search, rules, acceptances and label errors have left, and events of a week."""
    rules.set_file(store, 1, RULES)
    texts = (Content(modality=Modality.TEXT, text=str(n)) for n in range(EMBEDDED))
    inputs = {2 * n + 1: EmbedInput(contents=(content,)) for n, content in enumerate(texts)}
    drawn = np.random.default_rng(0).normal(size=(EMBEDDED, DIMENSIONS))
    unit = (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype("<f2")
    vectors = [TaskVector("space", vector.tobytes()) for vector in unit]
    task_embeddings.write(store, 1, inputs, dict(zip(inputs, vectors, strict=True)))
    with store.write() as session:
        session.execute(insert(RuleEffect), [_effect(n) for n in range(AFFECTED)])
        session.execute(insert(Acceptance), [_acceptance(number) for number in range(1, ACCEPTANCES + 1)])
        for number in range(1, ACCEPTANCES + 1):
            session.execute(insert(AcceptedTask), [_accepted(number, n) for n in range(ACCEPTED)])
        run = session.get_one(BulkRun, newest_run)
        label_error_reports.write(session, run, 5000, [_label_error(n) for n in range(1000)], [])
        at = (SQLITE if store.is_sqlite else POSTGRESQL)["at"].replace(":annotations", ":events")
        session.execute(text(EVENT_ROWS.format(at=at)), {"events": EVENTS, "projects": projects})


def _copy_to_other_projects(table: type[TrainingRun | ModelVersion | BulkRun], per_project: int) -> Any:
    """Statement that gives every other project the rows of the first, with ids of their own."""
    offset = (Project.id - 1) * per_project
    names = [column.name for column in table.__table__.columns]
    changed: dict[str, Any] = {"id": table.id + offset, "project_id": Project.id}
    if table is ModelVersion:
        changed["run_id"] = ModelVersion.run_id + offset
    rows = select(*(changed.get(name, table.__table__.c[name]) for name in names)).join(Project, Project.id > 1)
    return insert(table).from_select(names, rows.where(table.project_id == 1))


def _outcomes_of_other_projects() -> Any:
    """Statement that gives every other project a tenth of the outcomes of the first."""
    table = TaskOutcome.__table__
    names = [column.name for column in table.columns]
    rows = select(*(Project.id if name == "project_id" else table.c[name] for name in names))
    rows = rows.join(Project, Project.id > 1).where(TaskOutcome.project_id == 1, TaskOutcome.task_id % 20 == 1)
    return insert(TaskOutcome).from_select(names, rows)


def _outcomes(number: int) -> list[dict[str, Any]]:
    """What a version answered to 500 tasks; to each seventh something else than its parent."""
    return [
        {
            "project_id": 1,
            "number": number,
            "from_name": "kind",
            "task_id": 2 * place + 1,
            "value": float((place + number) % 7 != 0),
            "live_value": float((place + number - 1) % 7 != 0),
            "result": _answer(place),
            "live_result": _answer(place + 1),
        }
        for place in range(500)
    ]


def _answer(place: int) -> list[dict[str, Any]]:
    value = {"choices": [LABELS[place % len(LABELS)]]}
    return [{"from_name": "kind", "to_name": "image", "type": "choices", "value": value}]


def _run(number: int) -> dict[str, Any]:
    at = datetime.now(UTC) - timedelta(hours=1000 - number)
    return {
        "id": number,
        "project_id": 1,
        "state": RunState.FINISHED,
        "reason": "40 new annotations",
        "decision": "kind: accuracy 0.900 is better than live's 0.880 on 50 held-out tasks",
        "metrics": {"skipped": {}, "left_out": {}},
        "annotation_ids": list(range(400)),
        "losses": {"kind": [[step, 1 / (step + 1)] for step in range(200)]},
        "created_at": at,
        "started_at": at,
        "finished_at": at,
    }


def _version(number: int, newest: int) -> dict[str, Any]:
    scores = {
        "tasks": 50,
        "accuracy": 0.5 + 0.4 * number / newest,
        "per_class": {label: {"precision": 0.9, "recall": 0.9, "f1": 0.9, "support": 10} for label in LABELS},
        "labels": list(LABELS),
        "confusion": [[1] * len(LABELS) for _ in LABELS],
    }
    return {
        "id": number,
        "project_id": 1,
        "number": number,
        "parent": number - 1,
        "state": VersionState.LIVE if number == newest else VersionState.RETIRED,
        "base_models": {"kind": "hf-hub:base"},
        "adapters": {"kind": "p1.v1/kind"},
        "metrics": {"candidate": {"kind": scores}, "live": {"kind": scores}, "primary": {"kind": "accuracy"}},
        "trained_on": list(range(400)),
        "run_id": number,
    }


def _bulk_run(number: int) -> dict[str, Any]:
    at = datetime.now(UTC) - timedelta(hours=1000 - number)
    return {
        "id": number,
        "project_id": 1,
        "state": RunState.FINISHED,
        "kind": BulkRunKind.PREDICTIONS,
        "reason": "lorabel preannotate",
        "only_unlabeled": True,
        "total": 10_000,
        "done": 9_900,
        "failed": 100,
        "failures": [{"task_id": n, "reason": "the picture cannot be read"} for n in range(100)],
        "created_at": at,
        "started_at": at,
        "finished_at": at,
    }


def _effect(place: int) -> dict[str, Any]:
    removal = {"from_name": "kind", "what": "label 2", "is_text": False, "why": "'label 1' is likelier (0.81)"}
    return {
        "project_id": 1,
        "task_id": 2 * place + 1,
        "rule": "one kind" if place % 2 else "none in the north",
        "version": "p1.v50.r1",
        "count": 1,
        "removals": [removal],
        "predicted_at": datetime.now(UTC) - timedelta(seconds=place),
    }


def _acceptance(number: int) -> dict[str, Any]:
    proof = {"score": 0.9, "cases": 400, "errors": 3, "tasks": 4000, "expected_errors": 30.0, "most_errors": 60}
    labels = [{"label": label, "needed": None, "reason": "", "bound": 0.98, **proof} for label in LABELS]
    is_review = number == ACCEPTANCES
    return {
        "id": number,
        "project_id": 1,
        "run_id": number,
        "precision": 0.98,
        "confidence": 0.95,
        "is_together": False,
        "is_written": not is_review,
        "user_email": None if is_review else "machine@example.com",
        "review_size": SAMPLED if is_review else None,
        "tab_id": 7 if is_review else None,
        "version": "p1.v50",
        "cases_from": "the tasks that no training run has read yet",
        "labels": labels,
        "warnings": [],
    }


def _accepted(acceptance_id: int, place: int) -> dict[str, Any]:
    is_review = acceptance_id == ACCEPTANCES
    return {
        "acceptance_id": acceptance_id,
        "task_id": 2 * (place + ACCEPTED * acceptance_id) + 1,
        "project_id": 1,
        "result": _answer(place),
        "annotation_id": None if is_review else 10_000_000 + place + ACCEPTED * acceptance_id,
        "score": 0.95,
        "is_sampled": is_review and place < SAMPLED,
        "state": AcceptedState.SHOWN if is_review else AcceptedState.WRITTEN,
    }


def _label_error(place: int) -> dict[str, Any]:
    return {
        "from_name": "kind",
        "task_id": 2 * place + 1,
        "annotation_id": 2 * place + 1,
        "given": LABELS[place % len(LABELS)],
        "suggested": LABELS[(place + 1) % len(LABELS)],
        "score": place / 1000,
    }
