"""Comparison with Label Studio finds annotations made before connecting, and deletions that send no event."""

import re
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select

from lorabel.database import projects
from lorabel.database.store import Store
from lorabel.database.tables import Annotation
from lorabel.demo.project import LABEL_CONFIG, create_project
from lorabel.label_studio.client import LabelStudio
from lorabel.label_studio.records import AnnotatedTask
from lorabel.settings import Settings
from tests.e2e.label_studio_server import Server
from tests.workers.pictures import result
from workers.reconcile import reconcile
from workers.services import Services

pytestmark = pytest.mark.e2e
ALL, CHANGED = "all", "changed"


@pytest.fixture
def services(settings: Settings, store: Store) -> Iterator[Services]:
    services = Services.open(settings)
    yield services
    services.close()


def annotate(client: LabelStudio, task_id: int, grade: str, **fields: object) -> int:
    body = {"result": result(grade), "lead_time": 1.0, **fields}
    return int(client.call("POST", f"/api/tasks/{task_id}/annotations/", json=body)["id"])


def stored_annotations(store: Store) -> dict[int, str]:
    """Annotation id -> its grade, `skipped` or `deleted`."""
    with store.read() as session:
        return {row.id: describe(row) for row in session.scalars(select(Annotation))}


def describe(row: Annotation) -> str:
    if row.is_deleted:
        return "deleted"
    return "skipped" if row.was_cancelled else str((row.result or [])[0]["value"]["choices"][0])


def test_the_comparison_adds_missing_annotations_and_marks_deleted_ones(
    services: Services, store: Store, label_studio: Server, client: LabelStudio
) -> None:
    project_id = create_project(client, 4)
    first, second, third, _ = (task.task_id for task in client.tasks(project_id))
    first_id = annotate(client, first, "Grade A")
    second_id = annotate(client, second, "Grade B")
    skipped_id = annotate(client, third, "Grade C", was_cancelled=True)
    projects.upsert(
        store, project_id, label_config=LABEL_CONFIG, label_studio_url=label_studio.url, api_key=label_studio.token
    )
    assert "3 annotations were missing here, 0 are gone there" in reconcile(services, project_id)
    assert stored_annotations(store) == {first_id: "Grade A", second_id: "Grade B", skipped_id: "skipped"}
    sentence = reconcile(services, project_id)
    assert "what has changed" in sentence and "0 annotations were missing here, 0 are gone there" in sentence
    client.call("PATCH", f"/api/annotations/{second_id}/", json={"result": result("Grade C")})
    client.call("POST", f"/api/annotations/{first_id}/convert-to-draft", json={})
    assert "1 annotations were missing here, 1 are gone there" in reconcile(services, project_id)
    assert stored_annotations(store) == {first_id: "deleted", second_id: "Grade C", skipped_id: "skipped"}


def test_a_host_that_only_setup_has_named_is_never_called(
    services: Services, store: Store, label_studio: Server, client: LabelStudio
) -> None:
    project_id = create_project(client, 1)
    (task,) = client.tasks(project_id)
    annotate(client, task.task_id, "Grade A")
    projects.upsert(store, project_id, hostname=label_studio.url, setup_token=label_studio.token)
    assert "not connected by `lorabel connect`" in reconcile(services, project_id)
    assert stored_annotations(store) == {}


def test_a_refused_token_is_reported_and_deletes_nothing(
    services: Services, store: Store, label_studio: Server, client: LabelStudio
) -> None:
    project_id = create_project(client, 1)
    projects.upsert(store, project_id, label_studio_url=label_studio.url, api_key="wrong")
    with store.write() as session:
        session.add(Annotation(id=10**6, project_id=project_id, task_id=1, result=result("Grade A")))
    assert "not compared with Label Studio" in reconcile(services, project_id)
    assert set(stored_annotations(store).values()) == {"Grade A"}


@pytest.fixture
def connected(store: Store, label_studio: Server, client: LabelStudio) -> int:
    """The id of a project of 6 tasks, of which the first 4 have an annotation."""
    project_id = create_project(client, 6)
    for task in list(client.tasks(project_id))[:4]:
        annotate(client, task.task_id, "Grade A")
    url, token = label_studio.url, label_studio.token
    projects.upsert(store, project_id, label_config=LABEL_CONFIG, label_studio_url=url, api_key=token)
    return project_id


def test_later_comparisons_ask_for_changed_tasks_only(
    services: Services, store: Store, client: LabelStudio, connected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "compared with Label Studio: 4 annotations were missing" in reconcile(services, connected)
    listed: list[list[int]] = []
    annotated_tasks = LabelStudio.annotated_tasks

    def note_tasks(self: LabelStudio, *arguments: Any) -> Iterator[AnnotatedTask]:
        tasks = list(annotated_tasks(self, *arguments))
        listed.append([task.task_id for task in tasks])
        yield from tasks

    monkeypatch.setattr(LabelStudio, "annotated_tasks", note_tasks)
    # As if the annotations were made long before the last comparison.
    monkeypatch.setattr("workers.reconcile.OVERLAP", timedelta(seconds=-2))
    time.sleep(3)
    assert "what has changed in Label Studio: 0 annotations were missing" in reconcile(services, connected)
    fifth = list(client.tasks(connected))[4].task_id
    monkeypatch.setattr("workers.reconcile.OVERLAP", timedelta(seconds=0))
    annotation_id = annotate(client, fifth, "Grade B")
    assert "what has changed in Label Studio: 1 annotations were missing" in reconcile(services, connected)
    assert listed == [[], [fifth]]
    assert stored_annotations(store)[annotation_id] == "Grade B"


def act(client: LabelStudio, project_id: int, action: str, task_id: int, **options: Any) -> None:
    """Do an action of Label Studio's Data Manager on a task."""
    selected = {"selectedItems": {"all": False, "included": [task_id]}}
    client.call("POST", f"/api/dm/actions/?id={action}&project={project_id}", json={**selected, **options})


def annotations_there(client: LabelStudio, project_id: int) -> dict[int, str]:
    """Annotation id -> its grade, as Label Studio has it."""
    return {
        annotation["id"]: annotation["result"][0]["value"]["choices"][0]
        for task in client.tasks(project_id)
        for annotation in task.annotations
    }


def test_changes_of_every_kind_are_found_without_an_event(
    services: Services, store: Store, client: LabelStudio, connected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.reconcile.OVERLAP", timedelta(0))
    first, second, third, fourth, _, sixth = (task.task_id for task in client.tasks(connected))

    def compare() -> tuple[str, int, int]:
        """Compare, and check that both sides have the same. Returns what was compared, added and deleted."""
        sentence = reconcile(services, connected)
        stored = {i: state for i, state in stored_annotations(store).items() if state != "deleted"}
        assert stored == annotations_there(client, connected), sentence
        numbers = [int(number) for number in re.findall(r"\d+", sentence)]
        return CHANGED if "what has changed" in sentence else ALL, numbers[0], numbers[1]

    assert compare() == (ALL, 4, 0)
    second_of_first = annotate(client, first, "Grade B")
    assert compare() == (CHANGED, 1, 0)
    client.call("PATCH", f"/api/annotations/{second_of_first}/", json={"result": result("Grade C")})
    assert compare() == (CHANGED, 1, 0)
    client.call("DELETE", f"/api/annotations/{second_of_first}/")
    assert compare() == (CHANGED, 0, 1)
    act(client, connected, "delete_tasks_annotations", second)
    assert compare() == (ALL, 0, 1), "its only one"
    client.call("DELETE", f"/api/tasks/{third}/")
    assert compare() == (ALL, 0, 1)
    time.sleep(2.5)
    assert compare() == (CHANGED, 0, 0)
    (source, *_) = annotations_there(client, connected)
    act(client, connected, "propagate_annotations", sixth, source_annotation_id=source)
    assert compare() == (ALL, 1, 0), "this does not change the task's updated_at"
    annotations = [{"result": result(grade)} for grade in ("Grade A", "Grade B")]
    imported = [{"data": {"image": "http://pictures.test/x.png"}, "annotations": annotations}]
    client.call("POST", f"/api/projects/{connected}/import", json=imported)
    assert compare() == (CHANGED, 2, 0)
    act(client, connected, "delete_tasks", fourth)
    assert compare() == (ALL, 0, 1)
    assert compare() == (CHANGED, 0, 0)


def test_all_annotations_are_compared_again_after_some_hours(
    services: Services, store: Store, client: LabelStudio, connected: int
) -> None:
    assert reconcile(services, connected).startswith("compared with Label Studio")
    assert reconcile(services, connected).startswith("compared with what has changed")
    with store.write() as session:
        project = projects.get(session, connected)
        assert project.compared_fully_at is not None
        project.compared_fully_at -= timedelta(hours=25)
    assert reconcile(services, connected).startswith("compared with Label Studio")
    assert reconcile(services, connected).startswith("compared with what has changed")
    every_time = replace(services, settings=services.settings.model_copy(update={"compare_fully_hours": 0.0}))
    assert reconcile(every_time, connected).startswith("compared with Label Studio")


def test_numbers_that_differ_for_good_do_not_cause_full_comparisons_for_ever(
    services: Services, store: Store, client: LabelStudio, connected: int
) -> None:
    """Such as annotations that we hold for deleted although Label Studio has them."""
    reconcile(services, connected)
    with store.write() as session:
        (row, *_) = session.scalars(select(Annotation).where(Annotation.project_id == connected))
        row.is_deleted = True
    assert reconcile(services, connected).startswith("compared with Label Studio")
    assert reconcile(services, connected).startswith("compared with what has changed")
