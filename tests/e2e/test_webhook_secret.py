"""The secret of a project's webhook, with the events that the real Label Studio 1.23.2 sends."""

import threading
from collections.abc import Iterator
from datetime import timedelta

import httpx
import pytest
from pydantic import SecretStr
from sqlalchemy import func, select

from lorabel.commands.checks import Check
from lorabel.commands.connect import TITLE, Connection, Outcome, basic_auth_header, connect
from lorabel.commands.doctor import examine
from lorabel.database import training_runs, webhook_secrets
from lorabel.database.store import Store
from lorabel.database.tables import Event
from lorabel.demo.project import create_project
from lorabel.label_studio.client import LabelStudio
from lorabel.settings import Settings
from tests.e2e.label_studio_server import Server
from tests.e2e.lorabel_processes import Lorabel

pytestmark = pytest.mark.e2e

HEADER = webhook_secrets.HEADER


@pytest.fixture
def store(guarded_lorabel: Lorabel) -> Iterator[Store]:
    store = Store.open(guarded_lorabel.settings)
    yield store
    store.close()


def connect_at_once(label_studio: Server, lorabel: Lorabel, project_id: int) -> Connection:
    """Connect; events without the secret are refused from the end on."""
    overlap = timedelta()
    connection = connect(lorabel.settings, label_studio.url, label_studio.token, project_id, overlap=overlap)
    assert connection.is_complete, connection.steps
    return connection


def submit(client: LabelStudio, task_id: int) -> None:
    region = {"from_name": "grade", "to_name": "image", "type": "choices", "value": {"choices": ["Grade A"]}}
    client.call("POST", f"/api/tasks/{task_id}/annotations/", json={"result": [region]})


def forge(lorabel: Lorabel, project_id: int, headers: dict[str, str]) -> int:
    """The status of the answer to an event with the right user and password."""
    body = {"action": "TASKS_DELETED", "project": {"id": project_id}, "tasks": []}
    headers = basic_auth_header(lorabel.settings) | headers
    return httpx.post(f"{lorabel.url}/webhook", json=body, headers=headers, trust_env=False).status_code


def events(store: Store, project_id: int, action: str) -> int:
    with store.read() as session:
        of_project = select(func.count()).where(Event.project_id == project_id, Event.action == action)
        return session.scalar(of_project) or 0


def check_of_webhook(settings: Settings, project_id: int) -> Check:
    (check,) = (check for check in examine(settings, project_id) if check.name.endswith(": webhook"))
    return check


def test_events_of_label_studio_have_the_secret_and_forged_ones_are_refused(
    label_studio: Server, guarded_lorabel: Lorabel, client: LabelStudio, store: Store
) -> None:
    project_id, other_id = create_project(client, 2), create_project(client, 1)
    for connected_id in (project_id, other_id):
        connect_at_once(label_studio, guarded_lorabel, connected_id)
    (webhook,), (other_webhook,) = client.webhooks(project_id), client.webhooks(other_id)
    assert webhook.headers[HEADER] != other_webhook.headers[HEADER]
    for task in client.tasks(project_id):
        submit(client, task.task_id)
    assert events(store, project_id, "ANNOTATION_CREATED") == 2
    forged = [{}, {HEADER: "guessed"}, {HEADER: other_webhook.headers[HEADER]}]
    assert [forge(guarded_lorabel, project_id, headers) for headers in forged] == [401, 401, 401]
    assert forge(guarded_lorabel, project_id, {HEADER: webhook.headers[HEADER]}) == 200
    assert events(store, project_id, "TASKS_DELETED") == 1
    check = check_of_webhook(guarded_lorabel.settings, project_id)
    assert check.is_ok and "with the secret that we need; 3 events without it were refused" in check.finding
    assert "refused, event with a wrong secret" in _backend_log(guarded_lorabel)
    assert webhook.headers[HEADER] not in _backend_log(guarded_lorabel)


def test_start_training_comes_without_the_header_and_starts_a_run(
    label_studio: Server, guarded_lorabel: Lorabel, client: LabelStudio, store: Store
) -> None:
    project_id = create_project(client, 1)
    connect_at_once(label_studio, guarded_lorabel, project_id)
    (backend,) = client.backends(project_id)
    client.call("POST", f"/api/ml/{backend.id}/train")
    assert events(store, project_id, "START_TRAINING") == 1
    with store.read() as session:
        assert [run.reason for run in training_runs.list_of(session, project_id)] == ["START_TRAINING"]


def test_a_backend_that_was_added_by_hand_works_and_connect_gives_its_webhook_a_secret(
    label_studio: Server, guarded_lorabel: Lorabel, client: LabelStudio, store: Store
) -> None:
    project_id = create_project(client, 2)
    settings = guarded_lorabel.settings.model_copy(
        update={"label_studio_url": label_studio.url, "label_studio_api_key": SecretStr(label_studio.token)}
    )
    client.add_backend(project_id, guarded_lorabel.url, TITLE, settings.basic_auth)
    (by_hand,) = client.webhooks(project_id)
    assert by_hand.headers == {}, "Label Studio makes the webhook without a header"
    client.repair_webhook(by_hand, basic_auth_header(settings))
    before = client.webhooks(project_id)
    check = check_of_webhook(settings, project_id)
    assert check.is_ok and "without a secret" in check.finding and "lorabel connect" in check.finding
    assert client.webhooks(project_id) == before, "the doctor changes nothing"
    strict = settings.model_copy(update={"webhook_secret_required": True})
    assert "so its events are refused" in check_of_webhook(strict, project_id).finding
    first, second = client.tasks(project_id)
    submit(client, first.task_id)
    connect_at_once(label_studio, guarded_lorabel, project_id)
    (connected,) = client.webhooks(project_id)
    assert connected.id == by_hand.id and connected.headers.keys() == {"Authorization", HEADER}
    submit(client, second.task_id)
    assert events(store, project_id, "ANNOTATION_CREATED") == 2
    assert forge(guarded_lorabel, project_id, {}) == 401


def test_a_backend_that_is_added_again_gets_no_second_webhook(
    label_studio: Server, guarded_lorabel: Lorabel, client: LabelStudio
) -> None:
    project_id = create_project(client, 1)
    connect_at_once(label_studio, guarded_lorabel, project_id)
    before = client.webhooks(project_id)
    (backend,) = client.backends(project_id)
    client.delete_backend(backend.id)
    client.add_backend(project_id, guarded_lorabel.url, TITLE, guarded_lorabel.settings.basic_auth)
    client.update_backend(client.backends(project_id)[0], project_id, guarded_lorabel.settings.basic_auth)
    assert client.webhooks(project_id) == before


@pytest.mark.parametrize(
    ("changed", "finding"), [({}, "lacks its secret"), ({HEADER: "mine"}, "has a secret that is not ours")]
)
def test_a_header_that_was_changed_by_hand_is_found_and_mended(
    label_studio: Server,
    guarded_lorabel: Lorabel,
    client: LabelStudio,
    store: Store,
    changed: dict[str, str],
    finding: str,
) -> None:
    project_id = create_project(client, 1)
    connect_at_once(label_studio, guarded_lorabel, project_id)
    (webhook,) = client.webhooks(project_id)
    headers = {"Authorization": webhook.headers["Authorization"], "X-Mine": "kept", **changed}
    client.call("PATCH", f"/api/webhooks/{webhook.id}/", json={"url": webhook.url, "headers": headers})
    check = check_of_webhook(guarded_lorabel.settings, project_id)
    assert not check.is_ok and finding in check.finding and "lorabel connect" in check.remedy
    (task,) = client.tasks(project_id)
    submit(client, task.task_id)
    assert events(store, project_id, "ANNOTATION_CREATED") == 0
    connection = connect_at_once(label_studio, guarded_lorabel, project_id)
    assert [step.name for step in connection.steps if step.outcome is Outcome.CHANGED] == ["webhook"]
    submit(client, task.task_id)
    assert events(store, project_id, "ANNOTATION_CREATED") == 1
    (mended,) = client.webhooks(project_id)
    assert mended.headers["X-Mine"] == "kept"
    assert check_of_webhook(guarded_lorabel.settings, project_id).is_ok


def test_a_second_webhook_with_our_address_is_found_and_removed(
    label_studio: Server, guarded_lorabel: Lorabel, client: LabelStudio
) -> None:
    project_id = create_project(client, 1)
    connect_at_once(label_studio, guarded_lorabel, project_id)
    (webhook,) = client.webhooks(project_id)
    client.add_webhook(project_id, webhook.url, {})
    assert "2 webhooks send to" in check_of_webhook(guarded_lorabel.settings, project_id).finding
    connect_at_once(label_studio, guarded_lorabel, project_id)
    assert client.webhooks(project_id) == [webhook]


def test_no_event_is_lost_while_the_secret_is_replaced(
    label_studio: Server, guarded_lorabel: Lorabel, client: LabelStudio, store: Store
) -> None:
    project_id = create_project(client, 1)
    connect_at_once(label_studio, guarded_lorabel, project_id)
    (task,) = client.tasks(project_id)
    submitted, is_over = [], threading.Event()

    def annotate() -> None:
        with label_studio.client() as annotator:
            while not is_over.is_set():
                submit(annotator, task.task_id)
                submitted.append(task.task_id)

    annotators = [threading.Thread(target=annotate) for _ in range(2)]
    for annotator in annotators:
        annotator.start()
    secrets = set()
    try:
        for _ in range(3):
            connect(guarded_lorabel.settings, label_studio.url, label_studio.token, project_id, is_secret_new=True)
            secrets.add(client.webhooks(project_id)[0].headers[HEADER])
    finally:
        is_over.set()
        for annotator in annotators:
            annotator.join()
    assert len(secrets) == 3
    assert len(submitted) > 10
    assert events(store, project_id, "ANNOTATION_CREATED") == len(submitted)


def _backend_log(lorabel: Lorabel) -> str:
    return (lorabel.settings.data_dir / "logs" / "backend.log").read_text()
