"""The page of tasks: what is found, why each task is listed, and its picture."""

import base64
import io
import re
from contextlib import ExitStack
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from flask.testing import FlaskClient
from PIL import Image

from backend.services import Services
from lorabel.database import label_error_reports, projects
from lorabel.database.tables import Annotation, BulkRun, BulkRunKind, RunState, now
from tests.backend import page_history, requests
from tests.backend.test_pages import get, read_rows, text_of, token
from tests.lorabel.fake_label_studio import FakeLabelStudio
from tests.serving import serving

TASKS = "/ui/projects/1/tasks"
BLUE, RED = (20, 40, 220), (220, 40, 20)


def picture_url(width: int = 800, height: int = 400) -> str:
    written = io.BytesIO()
    Image.new("RGB", (width, height), BLUE).save(written, "PNG")
    return f"data:image/png;base64,{base64.b64encode(written.getvalue()).decode()}"


def choice(label: str) -> list[dict[str, Any]]:
    return [{"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": [label]}}]


@pytest.fixture
def project(services: Services) -> None:
    """A project whose Label Studio nobody can ask."""
    projects.upsert(services.store, 1, label_config=requests.CONFIG, hostname=page_history.ADDRESS)


def annotate(services: Services, annotation_id: int, task_id: int, label: str, **columns: Any) -> None:
    with services.store.write() as session:
        session.add(
            Annotation(
                project_id=1,
                id=annotation_id,
                task_id=task_id,
                result=choice(label),
                updated_at=now() + timedelta(seconds=annotation_id),
                **{"task_data": {"image": f"/data/{task_id}.png"}, **columns},
            )
        )


def listed(html: str) -> list[str]:
    """The tasks in the order of the page."""
    return re.findall(r'<th scope="row">.*?(task \d+)', html)


def test_tasks_are_found_by_text_and_by_likeness(client: FlaskClient, label_studio: FakeLabelStudio) -> None:
    html = get(client, f"{TASKS}?q=a+red+star")
    assert listed(html) == ["task 2", "task 1", "task 3"]
    assert read_rows(html)["task 2"][1] == "1.000"
    assert f'href="{label_studio.url}/projects/1/data?task=2"' in html
    assert f'src="{TASKS}/2/thumbnail"' in html
    assert "The nearest of 3 tasks" in text_of(html)
    assert listed(get(client, f"{TASKS}?like=3")) == ["task 2", "task 1"]


@pytest.mark.usefixtures("project")
def test_what_keeps_a_search_from_being_done_is_said(client: FlaskClient) -> None:
    assert "0 tasks can be found" in text_of(get(client, TASKS))
    assert "without a token" in text_of(get(client, f"{TASKS}?like=5"))
    assert client.get(f"{TASKS}?show=nothing").status_code == 400
    assert client.get(f"{TASKS}?q={'a' * 10_001}").status_code == 400
    assert client.get("/ui/projects/9/tasks").status_code == 404


def test_open_tasks_are_listed_with_the_least_certain_first(
    client: FlaskClient, label_studio: FakeLabelStudio
) -> None:
    assert "lorabel preannotate 1" in text_of(get(client, f"{TASKS}?show=unsure"))
    for task, score in zip(label_studio.tasks, (0.9, 0.4, None), strict=True):
        if score is not None:
            task["predictions"] = [
                {"id": task["id"], "score": score, "model_version": "p1.v1", "result": choice("red")}
            ]
    html = get(client, f"{TASKS}?show=unsure")
    assert listed(html) == ["task 2", "task 1"]
    assert read_rows(html)["task 2"][1:3] == ["0.400", "red"]
    assert "Of 3 open tasks" in text_of(html)


@pytest.mark.usefixtures("project")
def test_what_the_model_was_sure_of_and_people_corrected_comes_first(
    client: FlaskClient, services: Services
) -> None:
    assert "corrected no pre-annotation" in text_of(get(client, f"{TASKS}?show=model"))
    shown = {"prediction_id": 1, "prediction_version": "p1.v1", "prediction_result": choice("red")}
    annotate(services, 1, 11, "blue", is_accepted=False, prediction_score=0.5, **shown)
    annotate(services, 2, 12, "blue", is_accepted=False, prediction_score=0.9, **shown)
    annotate(services, 3, 13, "red", is_accepted=True, prediction_score=0.99, **shown)
    annotate(services, 4, 14, "red", is_accepted=False, prediction_score=None, **shown)
    html = get(client, f"{TASKS}?show=model")
    assert listed(html) == ["task 12", "task 11", "task 14"]
    rows = read_rows(html)
    assert rows["task 12"][1:4] == ["0.900", "red", "blue"]
    assert rows["task 14"][1:4] == ["–", "red", "red, with other regions"]


@pytest.mark.usefixtures("project")
def test_annotators_who_disagree_are_shown_side_by_side(client: FlaskClient, services: Services) -> None:
    assert "Annotations per task" in text_of(get(client, f"{TASKS}?show=annotators"))
    annotate(services, 1, 11, "red", completed_by=7)
    annotate(services, 2, 11, "blue", completed_by=8)
    annotate(services, 3, 12, "red", completed_by=7)
    annotate(services, 4, 12, "red", completed_by=8)
    annotate(services, 5, 13, "red", completed_by=7)
    annotate(services, 6, 13, "blue", completed_by=8, was_cancelled=True)
    html = get(client, f"{TASKS}?show=annotators")
    assert listed(html) == ["task 11"]
    assert read_rows(html)["task 11"][1:3] == ["2", "annotator 7: red; annotator 8: blue"]


@pytest.mark.usefixtures("project")
def test_probable_label_errors_are_listed_with_the_reason(client: FlaskClient, services: Services) -> None:
    path = f"{TASKS}?show=errors"
    assert "lorabel label-errors 1" in text_of(get(client, path))
    answer = client.post("/ui/projects/1/label-errors", data={"form_token": token(client, path)})
    assert (answer.status_code, answer.headers["Location"]) == (303, "/ui/projects/1/bulk/1")
    assert client.post("/ui/projects/1/label-errors").status_code == 403
    with services.store.write() as session:
        run = session.get_one(BulkRun, 1)
        assert (run.kind, run.state) == (BulkRunKind.LABEL_ERRORS, RunState.QUEUED)
        error = {"from_name": "label", "annotation_id": 3, "score": 0.02}
        errors = [
            {**error, "task_id": 13, "given": "red", "suggested": "blue"},
            {**error, "task_id": 12, "given": "", "suggested": "blue"},
            *({**error, "task_id": 100 + number, "given": "red", "suggested": ""} for number in range(30)),
        ]
        label_error_reports.write(session, run, checked=400, errors=errors, left_out=["label: 'x' is rare"])
    html = get(client, path)
    rows = read_rows(html)
    assert rows["task 13"][1:4] == ["label", "red", "blue"]
    assert "tasks like this one are blue, not red" in rows["task 13"][4]
    assert "which is missing" in rows["task 12"][4]
    assert "32 of 400 annotations are probably wrong" in text_of(html)
    assert "Not checked: label: 'x' is rare." in text_of(html)
    assert len(listed(html)) == 25
    assert len(listed(get(client, f"{path}&page=2"))) == 7


@pytest.mark.usefixtures("project")
def test_a_task_has_a_small_picture_that_comes_from_here(client: FlaskClient, services: Services) -> None:
    annotate(services, 1, 11, "red", task_data={"image": picture_url()})
    answer = client.get(f"{TASKS}/11/thumbnail")
    assert (answer.status_code, answer.content_type) == (200, "image/jpeg")
    assert answer.headers["Cache-Control"] == "private, max-age=3600"
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    picture = Image.open(io.BytesIO(answer.data))
    assert picture.size == (192, 96)
    pixel = picture.getpixel((96, 48))
    assert isinstance(pixel, tuple)
    assert pixel == pytest.approx(BLUE, abs=8)
    # Once it is made, it is not fetched again.
    services.thumbnails._make = None  # type: ignore[assignment, method-assign]
    assert client.get(f"{TASKS}/11/thumbnail").data == answer.data


def test_pictures_of_one_address_are_those_of_the_projects_own_label_studio(services: Services) -> None:
    with ExitStack() as stack:
        for number, colour in enumerate((BLUE, RED), start=1):
            server = _one_picture(colour)
            stack.enter_context(serving(server))
            url = f"http://127.0.0.1:{server.server_port}"
            projects.upsert(
                services.store, number, label_config=requests.CONFIG, label_studio_url=url, api_key="k"
            )
        with services.store.read() as session:
            known = [projects.get(session, number) for number in (1, 2)]
        for project, colour in zip(known, (BLUE, RED), strict=True):
            small = Image.open(io.BytesIO(services.thumbnails.get(project, "/data/upload/1/a.png")))
            assert small.getpixel((2, 2)) == pytest.approx(colour, abs=8)


def _one_picture(colour: tuple[int, int, int]) -> ThreadingHTTPServer:
    written = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(written, "PNG")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(written.getvalue())))
            self.end_headers()
            self.wfile.write(written.getvalue())

    return ThreadingHTTPServer(("127.0.0.1", 0), Handler)


@pytest.mark.usefixtures("project")
def test_a_picture_at_a_private_address_is_not_fetched(client: FlaskClient, services: Services) -> None:
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    with serving(server):
        annotate(services, 1, 11, "red", task_data={"image": f"http://127.0.0.1:{server.server_port}/a.png"})
        annotate(services, 2, 12, "red", task_data={"image": "data:image/png;base64,AAAA"})
        annotate(services, 3, 13, "red", task_data={"text": "no picture"})
        for task_id in (11, 12, 13, 99):
            with client.get(f"{TASKS}/{task_id}/thumbnail") as answer:
                assert (answer.status_code, answer.mimetype) == (200, "image/svg+xml")
                assert answer.headers["Cache-Control"] == "private, max-age=60"
    assert asked == []
    assert client.get("/ui/projects/9/tasks/1/thumbnail").status_code == 404


def test_what_a_task_shows_is_said_in_a_line(client: FlaskClient, services: Services) -> None:
    config = (
        '<View><Text name="text" value="$text"/><Audio name="sound" value="$sound"/>'
        '<Choices name="label" toName="text"><Choice value="red"/><Choice value="blue"/></Choices></View>'
    )
    projects.upsert(services.store, 1, label_config=config, hostname=page_history.ADDRESS)
    shown = {"prediction_id": 1, "prediction_version": "p1.v1", "prediction_result": choice("red")}
    data = {"text": "a <b>word\n and " + "more " * 60, "sound": "http://sounds.test/a/b.wav?token=x"}
    annotate(services, 1, 11, "blue", is_accepted=False, task_data=data, **shown)
    row = read_rows(get(client, f"{TASKS}?show=model"))["task 11"]
    assert row[0].startswith("a <b>word and more more") and row[0].endswith("…")
    assert len(row[0]) <= 200
