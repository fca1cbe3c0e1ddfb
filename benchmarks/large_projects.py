"""Projects with many annotations of drawn pictures: in our database, and in the real Label Studio."""

import base64
import io
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

from sqlalchemy import insert

from benchmarks.drawn_tasks import PROJECT, SEED
from lorabel.database import projects
from lorabel.database.store import Store
from lorabel.database.tables import Annotation
from lorabel.demo.pictures import Picture, random_pictures
from lorabel.label_studio.client import LabelStudio
from tests.workers.pictures import GRADES, LABEL_CONFIG, result

PICTURES = 1000
SIDE_PX = 96
ROWS_PER_TRANSACTION = 2000
TASKS_PER_IMPORT = 1000


def fill(store: Store, annotations: int, new: int) -> None:
    """Make project PROJECT with as many annotations, each of another task. No run has learned from the last `new`.

    There are PICTURES pictures, which come again and again.
    """
    projects.upsert(store, PROJECT, label_config=LABEL_CONFIG)
    drawn = _drawn()
    start = datetime.now(UTC) - timedelta(seconds=annotations)
    for first in range(0, annotations, ROWS_PER_TRANSACTION):
        rows = [
            {
                **drawn[i % PICTURES],
                "id": i + 1,
                "project_id": PROJECT,
                "task_id": i + 1,
                "updated_at": start + timedelta(seconds=i),
                "received_at": start + timedelta(seconds=i),
                "run_id": 1 if i < annotations - new else None,
            }
            for i in range(first, min(first + ROWS_PER_TRANSACTION, annotations))
        ]
        with store.write() as session:
            session.execute(insert(Annotation), rows)


def import_project(client: LabelStudio, annotations: int) -> int:
    """Make a project in Label Studio with as many annotations, each of another task. Returns the project's id."""
    body = {"title": f"{annotations} annotations", "label_config": LABEL_CONFIG}
    project_id = int(client.call("POST", "/api/projects/", json=body)["id"])
    for first in range(0, annotations, TASKS_PER_IMPORT):
        tasks = [
            {"data": {"image": f"http://pictures.test/{i}.jpg"}, "annotations": [{"result": result("Grade A")}]}
            for i in range(first, min(first + TASKS_PER_IMPORT, annotations))
        ]
        client.call("POST", f"/api/projects/{project_id}/import", json=tasks, timeout_s=300.0)
    return project_id


def _drawn() -> list[dict[str, Any]]:
    """`task_data` and `result` of each picture."""
    return [
        {"task_data": {"image": _data_url(picture)}, "result": result(GRADES[picture.fill])}
        for picture in _pictures()
    ]


def _pictures() -> Iterator[Picture]:
    return islice(random_pictures(SEED), PICTURES)


def _data_url(picture: Picture) -> str:
    file = io.BytesIO()
    picture.draw(SIDE_PX).save(file, "JPEG", quality=60)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
