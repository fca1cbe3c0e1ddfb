"""The page of acceptances: nothing is written before it is confirmed, and what was written can be undone."""

import pytest
from flask.testing import FlaskClient

from backend.services import Services
from lorabel.database import acceptances, projects
from lorabel.database.acceptance_tables import AcceptedState, AcceptedTask
from lorabel.database.tables import Acceptance, BulkRun, BulkRunKind, RunState
from tests.backend import page_history, requests
from tests.backend.test_pages import get, read_rows, text_of, token

ACCEPT = "/ui/projects/1/accept"


@pytest.fixture
def project(services: Services) -> None:
    projects.upsert(
        services.store, 1, label_config=requests.CONFIG, label_studio_url=page_history.ADDRESS, api_key="a token"
    )


def finish(services: Services, run_id: int) -> None:
    """End a bulk run, as the worker does."""
    with services.store.write() as session:
        session.get_one(BulkRun, run_id).state = RunState.FINISHED


def prove(services: Services, acceptance_id: int) -> None:
    """Write what a run has found: one of two labels may be accepted."""
    proof = {"cases": 300, "errors": 2, "tasks": 120, "expected_errors": 0.8, "most_errors": 2, "bound": 0.983}
    with services.store.write() as session:
        acceptance = session.get_one(Acceptance, acceptance_id)
        acceptance.version, acceptance.cases_from = "p1.v3", "300 annotated tasks"
        acceptance.warnings = ["12 tasks were skipped"]
        acceptance.labels = [
            {"label": "red", "score": 0.91, "needed": None, "reason": "", **proof},
            {"label": "blue", **proof, "score": None, "needed": 140, "reason": "30 cases are too few"},
        ]


@pytest.mark.usefixtures("project")
def test_what_would_be_accepted_is_found_without_writing(client: FlaskClient, services: Services) -> None:
    assert "Nobody has asked yet" in text_of(get(client, ACCEPT))
    fields = {"form_token": token(client, ACCEPT), "precision": "0.97"}
    answer = client.post(f"{ACCEPT}/find", data=fields)
    assert (answer.status_code, answer.headers["Location"]) == (303, "/ui/projects/1/bulk/1")
    assert client.post(f"{ACCEPT}/find", data=fields).status_code == 409  # one goes on already
    with services.store.read() as session:
        acceptance = session.get_one(Acceptance, 1)
        assert session.get_one(BulkRun, 1).kind == BulkRunKind.ACCEPTANCE
    assert (acceptance.precision, acceptance.confidence, acceptance.is_together) == (0.97, 0.95, False)
    assert (acceptance.is_written, acceptance.user_email) == (False, None)
    prove(services, 1)
    html = get(client, ACCEPT)
    rows = read_rows(html)
    assert rows["red"] == ["0.910", "300", "2", "120", "98.3 %", "0.8", ""]
    assert rows["blue"][3] == "0"
    assert rows["blue"][-1] == "about 140 more annotated tasks: 30 cases are too few"
    said = text_of(html)
    assert "120 open tasks" in said and "12 tasks were skipped" in said
    assert "at least 97.0% of the accepted tasks are right, of each label by itself" in said
    assert rows["1"][2] == "nothing is written"
    assert "Undo" not in said.replace("Undo", "", 1)  # the head of the column alone


@pytest.mark.usefixtures("project")
def test_accepting_is_confirmed_with_a_user_and_can_be_undone(client: FlaskClient, services: Services) -> None:
    path = f"{ACCEPT}/write?precision=0.97&together=1"
    assert "Accept predictions with a precision of 97.0 %?" in text_of(get(client, path))
    fields = {"form_token": token(client, path), "precision": "0.97", "together": "1"}
    for wrong in ({"email": ""}, {"email": "nobody"}, {"email": "a@b.example", "precision": "1.5"}):
        assert client.post(f"{ACCEPT}/write", data={**fields, **wrong}).status_code == 400
    answer = client.post(f"{ACCEPT}/write", data={**fields, "email": "machine@example.com"})
    assert answer.headers["Location"] == "/ui/projects/1/bulk/1"
    with services.store.write() as session:
        acceptance = session.get_one(Acceptance, 1)
        assert (acceptance.user_email, acceptance.is_together) == ("machine@example.com", True)
        for task_id, state in (
            (1, AcceptedState.WRITTEN),
            (2, AcceptedState.WRITTEN),
            (3, AcceptedState.ANNOTATED),
        ):
            session.add(AcceptedTask(acceptance_id=1, task_id=task_id, project_id=1, result=[], state=state))
    finish(services, 1)
    assert read_rows(get(client, ACCEPT))["1"][3] == "1 annotated, 2 written"
    undo = f"{ACCEPT}/1/undo"
    assert "deletes the 2 annotations of machine@example.com" in text_of(get(client, undo))
    assert client.post(undo, data={"form_token": "guess"}).status_code == 403
    answer = client.post(undo, data={"form_token": token(client, undo)})
    assert answer.headers["Location"] == "/ui/projects/1/bulk/2"
    with services.store.write() as session:
        assert session.get_one(BulkRun, 2).kind == BulkRunKind.ACCEPTANCE_UNDO
        for task in acceptances.tasks_in(session, 1, AcceptedState.WRITTEN):
            task.state = AcceptedState.REMOVED
    assert client.get(undo).status_code == 409
    assert client.get(f"{ACCEPT}/7/undo").status_code == 404


def test_without_a_token_nothing_can_be_accepted(client: FlaskClient, services: Services) -> None:
    projects.upsert(services.store, 1, label_config=requests.CONFIG, hostname=page_history.ADDRESS)
    html = get(client, ACCEPT)
    assert "lorabel connect --project 1" in text_of(html)
    assert "See what would be accepted" not in html
    fields = {"form_token": token(client, f"{ACCEPT}/write"), "email": "machine@example.com"}
    assert client.post(f"{ACCEPT}/write", data=fields).status_code == 409
    assert client.get("/ui/projects/9/accept").status_code == 404
