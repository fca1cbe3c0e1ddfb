"""The page of a project's rules."""

import json
import re

import pytest
from flask.testing import FlaskClient

from backend.label_studio_routes import answer_prediction
from backend.services import Services
from lorabel.database import projects, rules
from tests.backend import requests
from tests.backend.test_pages import get, read_rows, text_of, token
from tests.backend.test_rules import CONFIG, NO_RED, SMALL

PATH = "/ui/projects/1/rules"


@pytest.fixture(autouse=True)
def project(services: Services) -> None:
    projects.upsert(services.store, 1, label_config=CONFIG, hostname="http://labels.example.com:8080")


def send(client: FlaskClient, action: str = "save", file: str = "", number: int | None = None) -> tuple[int, str]:
    """Status and text of the answer to the form, as a browser sends it: lines end with CR LF."""
    page = get(client, PATH)
    shown = re.search(r'name="number" value="(\d+)"', page)
    assert shown is not None
    fields = {"form_token": token(client, PATH), "action": action, "file": file.replace("\n", "\r\n")}
    answer = client.post(PATH, data=fields | {"number": shown[1] if number is None else str(number)})
    return answer.status_code, answer.text


def file_of(services: Services) -> str | None:
    with services.store.read() as session:
        return rules.file_of(projects.get(session, 1))


def test_rules_are_saved_and_what_they_remove_is_shown(client: FlaskClient, services: Services) -> None:
    assert "The project has no rules." in text_of(get(client, PATH))
    assert send(client, file=f"# why\n{SMALL}")[0] == 303
    assert file_of(services) == f"# why\n{SMALL.strip()}\n"
    body = json.dumps(requests.predict(requests.task(5), label_config=CONFIG)).encode()
    answer = answer_prediction(services, body, {})
    assert answer.on_sent is not None
    answer.on_sent()
    html = get(client, PATH)
    assert read_rows(html)["no specks"] == ["minimum size", "1", "1"]
    assert 'href="http://labels.example.com:8080/projects/1/data?task=5">task 5<' in html
    assert "# why\n" in html
    assert f'href="{PATH}"' in get(client, "/ui/projects/1")


def test_faults_are_shown_with_their_lines_and_nothing_is_changed(client: FlaskClient, services: Services) -> None:
    send(client, file=SMALL)
    for file, line, reason in (
        ("[[exclusive]]\nname = ", "line 2", "no TOML"),
        ('[[needs]]\nname = "n"\nlabel = "Cat"\nneeds = "Dog"', "line 2", "no label 'Cat'; it has"),
        ('[[pattern]]\nname = "n"\ntag = "why"\nmatches = "("', "line 1", "no regular expression of RE2"),
        ("x" * 100_001, "Not saved.", "expected at most 100000"),
        ("a = \0", "Not saved.", "none of them NUL"),
    ):
        for action in ("save", "check"):
            status, html = send(client, action, file)
            assert (status, line in text_of(html), reason in text_of(html)) == (422, True, True), text_of(html)
        assert file.split("\n")[0][:50].replace("\0", "") in html, "what was written stays in the editor"
    assert file_of(services) == f"{SMALL.strip()}\n"


def test_rules_are_checked_without_being_saved(client: FlaskClient, services: Services) -> None:
    status, html = send(client, "check", SMALL)
    assert (status, "These rules fit the label config." in text_of(html)) == (200, True)
    assert file_of(services) is None


def test_a_change_is_taken_back_and_so_is_that(client: FlaskClient, services: Services) -> None:
    assert "Take it back" not in get(client, PATH)
    assert send(client, "take_back")[0] == 422
    send(client, file=SMALL)
    send(client, file=NO_RED)
    assert send(client, "take_back")[0] == 303
    assert file_of(services) == f"{SMALL.strip()}\n"
    send(client, "take_back")
    assert file_of(services) == f"{NO_RED.strip()}\n"
    send(client, file="")
    assert file_of(services) is None
    send(client, "take_back")
    assert file_of(services) == f"{NO_RED.strip()}\n"


def test_rules_that_do_not_fit_any_more_are_not_taken_back(client: FlaskClient, services: Services) -> None:
    send(client, file=NO_RED)
    send(client, file="")
    projects.upsert(services.store, 1, label_config=CONFIG.replace('"red"', '"crimson"'))
    status, html = send(client, "take_back")
    assert status == 422
    assert "has no label 'red'; it has 'crimson'" in text_of(html)
    assert "no red there" in html, "they stand in the editor, to be mended"
    assert file_of(services) is None


def test_what_somebody_else_has_changed_meanwhile_is_not_overwritten(
    client: FlaskClient, services: Services
) -> None:
    send(client, file=SMALL)
    for action in ("save", "take_back"):
        for file in (NO_RED, ""):
            status, html = send(client, action, file, number=0)
            assert status == 422
            assert "somebody has changed the rules of project 1 meanwhile" in text_of(html)
    assert file_of(services) == f"{SMALL.strip()}\n"
    data = {"form_token": token(client, PATH), "file": ""}
    assert client.post(PATH, data=data).status_code == 400


def test_forms_of_other_sites_are_refused(client: FlaskClient, services: Services) -> None:
    assert client.post(PATH, data={"form_token": "guess", "number": "0", "file": SMALL}).status_code == 403
    assert file_of(services) is None
    assert client.get("/ui/projects/9/rules").status_code == 404
