"""Forms of the pages: what they do, against a history that is known, and that other sites cannot send them."""

import pytest
from flask.testing import FlaskClient

from backend.services import Services
from lorabel.database.tables import Project, RunState, TrainingRun, VersionState, now
from tests.backend import page_history
from tests.backend.test_pages import P1, get, text_of, token


@pytest.fixture
def history(services: Services) -> None:
    page_history.write(services.store)


@pytest.mark.parametrize(
    "path", [f"{P1}/versions/v1/promote", f"{P1}/rollback", f"{P1}/train", f"{P1}/training/5/cancel", "/ui/checks"]
)
def test_a_form_of_another_site_is_refused(
    client: FlaskClient, services: Services, history: None, path: str
) -> None:
    right = token(client, f"{P1}/train")
    for fields, headers in (
        ({}, {}),
        ({"form_token": "guess"}, {}),
        ({"form_token": right}, {"Sec-Fetch-Site": "cross-site"}),
        ({"form_token": right}, {"Sec-Fetch-Site": "same-site"}),
    ):
        answer = client.post(path, data=fields, headers=headers)
        assert answer.status_code == 403
        assert "form" in answer.text
    client.delete_cookie("lorabel_form", path="/ui")
    assert client.post(path, data={"form_token": right}).status_code == 403
    assert client.post(path, data={"form_token": ""}).status_code == 403
    with services.store.read() as session:
        assert session.get_one(Project, 1).live_number == 3
        assert session.get_one(TrainingRun, 5).state == RunState.RUNNING


@pytest.mark.parametrize("path", ["rollback", "promote", "train", "acceptances"])
def test_what_a_page_of_another_site_makes_a_browser_send_to_rest_is_refused(
    client: FlaskClient, services: Services, history: None, path: str
) -> None:
    headers = {"Sec-Fetch-Site": "cross-site", "Content-Type": "text/plain"}
    answer = client.post(f"/api/v1/projects/1/{path}", data='{"version": 1, "precision": 0.5}', headers=headers)
    assert answer.status_code == 403
    assert "another site" in answer.get_json()["error"]
    with services.store.read() as session:
        assert session.get_one(Project, 1).live_number == 3


def test_the_token_of_forms_is_for_our_own_pages_alone(client: FlaskClient, history: None) -> None:
    cookie = client.get(f"{P1}/train").headers["Set-Cookie"]
    assert all(part in cookie for part in ("HttpOnly", "SameSite=Strict", "Path=/ui"))
    assert "Set-Cookie" not in client.get("/ui/runs").headers


def test_a_version_is_made_live_after_the_page_has_said_what_happens(
    client: FlaskClient, services: Services, history: None
) -> None:
    path = f"{P1}/versions/v2/promote"
    said = text_of(get(client, path))
    assert "The rule rejected this version: shape: accuracy 0.700 is worse than live's 0.750" in said
    assert "p1.v2 answers in place of p1.v3" in said
    answer = client.post(path, data={"form_token": token(client, path)})
    assert (answer.status_code, answer.headers["Location"]) == (303, f"{P1}/versions/v2")
    with services.store.read() as session:
        assert session.get_one(Project, 1).live_number == 2


def test_rolling_back_goes_to_the_parent(client: FlaskClient, services: Services, history: None) -> None:
    path = f"{P1}/rollback"
    assert "Roll back to p1.v1?" in text_of(get(client, path))
    assert client.post(path, data={"form_token": token(client, path)}).status_code == 303
    with services.store.read() as session:
        assert session.get_one(Project, 1).live_number == 1


def test_a_version_without_adapters_cannot_be_made_live(
    client: FlaskClient, services: Services, history: None
) -> None:
    with services.store.write() as session:
        session.add(page_history.version(4, 3, VersionState.REJECTED, 0.5, 0.9, adapters_removed_at=now()))
    assert "Make it live" not in get(client, f"{P1}/versions/v4")
    assert client.get(f"{P1}/versions/v4/promote").status_code == 409


def test_a_run_is_cancelled(client: FlaskClient, services: Services, history: None) -> None:
    path = f"{P1}/training/5/cancel"
    answer = client.post(path, data={"form_token": token(client, path)})
    assert answer.headers["Location"] == f"{P1}/training/5"
    with services.store.read() as session:
        assert session.get_one(TrainingRun, 5).state == RunState.CANCELLED
    ended = client.post(f"{P1}/training/4/cancel", data={"form_token": token(client, path)})
    assert ended.status_code == 409


def test_a_run_is_asked_for(client: FlaskClient, services: Services, history: None) -> None:
    path = f"{P1}/train"
    assert "205 new annotations" in text_of(get(client, path))
    answer = client.post(path, data={"form_token": token(client, path)})
    assert answer.headers["Location"] == f"{P1}/training/6"
    with services.store.read() as session:
        assert session.get_one(TrainingRun, 6).state == RunState.QUEUED
