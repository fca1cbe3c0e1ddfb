"""The page and REST route that forget, and the job that does it, from one end to the other."""

# ruff: noqa: F401, F811 - fixtures of another module

from collections.abc import Iterator

import pytest
from flask import Flask
from flask.testing import FlaskClient

from backend.app import create_app
from backend.pages import forget as forget_page
from backend.services import EXTENSION
from lorabel.errors import ForbiddenFormError
from tests.backend.test_pages import get, read_rows, text_of, token
from tests.workers.events import PROJECT
from tests.workers.kept_data import MARKER, OTHERS, TASK, fill, traces
from tests.workers.test_forget import running_redis, services, settings
from workers import forget
from workers.services import Services

pytestmark = pytest.mark.slow

PAGE = f"/ui/projects/{PROJECT}/forget"
REST = f"/api/v1/projects/{PROJECT}/forget"


@pytest.fixture
def sealed() -> list[str]:
    """The arguments of the jobs that were queued."""
    return []


@pytest.fixture
def client(services: Services, monkeypatch: pytest.MonkeyPatch, sealed: list[str]) -> Iterator[FlaskClient]:
    app: Flask = create_app(services.settings)
    backend = app.extensions[EXTENSION]
    monkeypatch.setattr(backend.jobs, "forget", lambda project_id, argument: sealed.append(argument) or True)
    monkeypatch.setattr(Services, "current", staticmethod(lambda: services))
    yield app.test_client()
    backend.close()


@pytest.fixture(autouse=True)
def wait_for_plans(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages have the plan, however busy the machine is."""
    monkeypatch.setattr(forget_page, "PLAN_WAIT_S", 60.0)


def test_a_task_is_forgotten_after_a_confirmation(
    client: FlaskClient, services: Services, sealed: list[str]
) -> None:
    fill(services)
    assert "What" in text_of(get(client, PAGE))
    shown = text_of(get(client, f"{PAGE}?kind=task&id={TASK}"))
    assert f"Delete all of task {TASK} for good?" in shown
    assert read_rows(get(client, f"{PAGE}?kind=task&id={TASK}"))["annotation"] == ["1"]
    fields = {"kind": "task", "id": str(TASK)}
    assert client.post(PAGE, data=fields).status_code == 403
    assert client.post(PAGE, data={**fields, "form_token": "guess"}).status_code == 403
    assert sealed == [] and traces(services, MARKER, str(TASK)) != []
    answer = client.post(PAGE, data={**fields, "form_token": token(client, f"{PAGE}?kind=task&id={TASK}")})
    assert (answer.status_code, answer.headers["Location"]) == (303, f"{PAGE}?kind=task&id={TASK}")
    forget.forget(*sealed)
    assert traces(services, MARKER, str(TASK)) == []
    assert traces(services, str(OTHERS[0])) != []
    assert f"Nothing is kept of task {TASK}" in text_of(get(client, f"{PAGE}?kind=task&id={TASK}"))


def test_a_project_is_forgotten_by_rest(client: FlaskClient, services: Services, sealed: list[str]) -> None:
    fill(services)
    planned = client.post(REST, json={})
    assert planned.status_code == 200
    assert planned.json is not None and planned.json["rows"]["annotation"] > 1 and not planned.json["is_queued"]
    assert sealed == []
    asked = client.post(REST, json={"confirm": True})
    assert asked.json is not None and asked.json["is_queued"]
    forget.forget(*sealed)
    assert traces(services, MARKER, str(TASK)) == []
    after = client.post(REST, json={})
    assert after.json is not None and after.json["rows"] == {}
    assert f"Nothing is kept of project {PROJECT}" in text_of(get(client, f"{PAGE}?kind=project"))


@pytest.mark.parametrize(
    "body",
    [
        {"task_id": 1, "annotator_id": 2},
        {"retrain": True},
        {"task_id": 0},
        {"task_id": "7"},
        {"task": 7},
        {"confirm": 1},
    ],
)
def test_a_body_that_is_wrong_deletes_nothing(
    client: FlaskClient, services: Services, body: dict[str, object]
) -> None:
    fill(services)
    if "task" in body:
        body["confirm"] = False  # fields that are not known are not read
        assert client.post(REST, json=body).json["is_queued"] is False  # type: ignore[index]
        return
    assert client.post(REST, json=body).status_code == 400


@pytest.mark.parametrize("query", ["kind=task&id=x", "kind=task", "kind=annotator&id=-3", "kind=all&id=3"])
def test_an_id_that_is_none_is_refused(client: FlaskClient, services: Services, query: str) -> None:
    fill(services)
    assert client.get(f"{PAGE}?{query}").status_code == 400


def test_a_job_that_nobody_of_ours_has_sealed_is_not_done(client: FlaskClient, services: Services) -> None:
    fill(services)
    keyring = services.store.keyring
    for argument in (f'["forget", {PROJECT}, null, null, false]', keyring.seal("a token"), keyring.seal("[1]")):
        with pytest.raises(ForbiddenFormError):
            forget.forget(argument)
    assert traces(services, MARKER) != []
