"""Events as Label Studio sends them, made from the recordings."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import select

from lorabel.database.store import Store
from lorabel.database.tables import Event, TaskOutcome

RECORDINGS = Path(__file__).parents[1] / "data" / "recordings"
START = datetime(2026, 1, 1, tzinfo=UTC)
PROJECT = 1


def recorded(name: str) -> dict[str, Any]:
    body: dict[str, Any] = json.loads((RECORDINGS / name).read_text())["body"]
    return body


def at(second: int) -> str:
    return (START + timedelta(seconds=second)).isoformat().replace("+00:00", "Z")


def annotation(
    annotation_id: int, task_id: int, label: str, second: int, action: str = "ANNOTATION_CREATED", **changed: Any
) -> dict[str, Any]:
    body = recorded("image-choices/05-accept-webhook-annotation_created.json")
    body["action"] = action
    body["annotation"] |= {"id": annotation_id, "task": task_id, "updated_at": at(second), **changed}
    body["annotation"]["result"][0]["value"]["choices"] = [label]
    body["task"] |= {"id": task_id}
    return body


def deletion(*annotation_ids: int) -> dict[str, Any]:
    body = recorded("image-choices/12-delete-webhook-annotations_deleted.json")
    return body | {"annotations": [{"id": i} for i in annotation_ids]}


def task_deletion(*task_ids: int) -> dict[str, Any]:
    body = recorded("image-choices/25-delete-task-webhook-tasks_deleted.json")
    return body | {"tasks": [{"id": i} for i in task_ids]}


def put(store: Store, *bodies: dict[str, Any], project_id: int = PROJECT) -> None:
    """Add events to the database, as the backend stores them."""
    with store.write() as session:
        for body in bodies:
            session.add(Event(action=body["action"], project_id=project_id, payload=json.dumps(body)))
            session.flush()


def all_outcomes(store: Store) -> list[TaskOutcome]:
    with store.read() as session:
        return list(session.scalars(select(TaskOutcome)))
