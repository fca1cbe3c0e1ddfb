"""What the pages say, against a history whose figures are known (`tests/backend/page_history.py`)."""

import re
from html import unescape
from html.parser import HTMLParser

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import select

from backend.app import create_app
from backend.pages.home import group_faults
from backend.pages.run_rows import KINDS
from backend.services import EXTENSION, Services
from lorabel.commands.checks import Check
from lorabel.database.tables import Annotation, BulkRunKind, Project, RunState, TrainingRun, VersionState
from lorabel.settings import Settings
from tests.backend import page_history

P1 = "/ui/projects/1"
PAGES = (
    "/ui/",
    "/ui/runs",
    P1,
    f"{P1}/runs",
    f"{P1}/versions/v3",
    f"{P1}/versions/v0",
    f"{P1}/training/4",
    f"{P1}/training/5",
    f"{P1}/bulk/1",
    f"{P1}/versions/v1/promote",
    f"{P1}/rollback",
    f"{P1}/train",
    f"{P1}/training/5/cancel",
    f"{P1}/cell?tag=shape&annotated=star&predicted=square",
    *(f"{P1}/{path}" for path in ("tasks", "tasks?show=model", "accept", "accept/write")),
)
HOSTILE = '"><script>alert(1)</script>'


@pytest.fixture
def history(services: Services) -> None:
    page_history.write(services.store)


class _Rows(HTMLParser):
    """The rows of tables: the text of each cell."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self._is_in_cell = False

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th") and self.rows:
            self.rows[-1].append("")
            self._is_in_cell = True

    def handle_endtag(self, tag: str) -> None:
        self._is_in_cell = self._is_in_cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._is_in_cell:
            self.rows[-1][-1] += data


def read_rows(html: str) -> dict[str, list[str]]:
    """First cell of each row -> the others, without superfluous blanks. Of several rows the first counts."""
    parser = _Rows()
    parser.feed(html)
    rows = [[" ".join(cell.split()) for cell in row] for row in parser.rows if row]
    return {row[0]: row[1:] for row in reversed(rows)}


def text_of(html: str) -> str:
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", html)).split())


def get(client: FlaskClient, path: str) -> str:
    answer = client.get(path)
    assert answer.status_code == 200, path
    return answer.text


def token(client: FlaskClient, path: str) -> str:
    match = re.search(r'name="form_token" value="([^"]+)"', get(client, path))
    assert match is not None
    return match[1]


def test_the_address_of_the_backend_leads_to_the_pages(client: FlaskClient) -> None:
    answer = client.get("/")
    assert (answer.status_code, answer.headers["Location"]) == (302, "/ui/")


def test_without_projects_home_says_how_to_connect_one(client: FlaskClient) -> None:
    assert "lorabel connect" in text_of(get(client, "/ui/"))


def test_home_shows_figure_annotations_and_runs_of_a_project(client: FlaskClient, history: None) -> None:
    html = get(client, "/ui/")
    row = read_rows(html)["Project 1"]
    assert row[0] == "p1.v3"
    assert row[1] == "92.5 % accuracy, 40 tasks"
    assert row[3:6] == ["144", "205", "1 active"]  # one annotation each ten minutes; 205 in all
    assert "accuracy of shape in the last 3 versions: from 75 % to 92 %" in html.replace("\u00a0", " ")
    assert "18 of 60 steps" in text_of(html)


def test_home_names_what_is_wrong(client: FlaskClient, services: Services, history: None) -> None:
    services.vitals.checks.get(wait_s=30)
    said = text_of(get(client, "/ui/"))
    assert "run 4 failed: the device has no memory left" in said
    assert "lorabel train 1 tries again" in said


def test_a_fault_of_several_projects_is_said_once() -> None:
    away = ("Label Studio cannot be reached", "is it running?")
    checks = [
        Check("redis", False, "no answer", "run `lorabel up`"),
        *(Check(f"project {number}: Label Studio", False, *away) for number in (1, 2)),
        Check("project 3: Label Studio", False, "the token is wrong", "connect again"),
        Check("project 4: Label Studio", True, "fine"),
        *(Check(f"project {number}: webhook", False, *away) for number in range(5, 20)),
    ]
    assert [(fault.name, fault.finding) for fault in group_faults(checks)] == [
        ("redis", "no answer"),
        ("projects 1, 2: Label Studio", away[0]),
        ("project 3: Label Studio", "the token is wrong"),
        ("projects 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16 and 3 more: webhook", away[0]),
    ]


def test_a_project_shows_what_became_of_pre_annotations(client: FlaskClient, history: None) -> None:
    rows = read_rows(get(client, P1))
    assert rows["submitted it unchanged"] == ["152", "87 %"]  # of 175
    assert rows["corrected it"] == ["20", "11 %"]
    assert rows["removed all of it"] == ["3", "2 %"]


def test_time_per_task_is_shown_with_and_without_a_pre_annotation(client: FlaskClient, history: None) -> None:
    rows = read_rows(get(client, P1))
    assert rows["a pre-annotation"] == ["175", "6.0 s", "6.0 s", "6.0 s"]
    assert rows["none"] == ["30", "15 s", "15 s", "15 s"]


def test_labels_have_precision_recall_support_and_a_light(client: FlaskClient, history: None) -> None:
    rows = read_rows(get(client, P1))
    # circle: predicted 82, right 72, annotated 80.
    assert rows["circle"][:6] == ["too few to tell", "88 %", "79 % to 93 %", "90 %", "82", "80"]
    # square: predicted 70, right 60, annotated 60.
    assert rows["square"][:6] == ["too few to tell", "86 %", "76 % to 92 %", "100 %", "70", "60"]
    # star: predicted 23, right 20, annotated 32.
    assert rows["star"][:6] == ["too few to tell", "87 %", "68 % to 95 %", "62 %", "23", "32"]
    assert rows["star"][-3:] == ["20", "0", "3"]


def test_the_light_follows_the_target(client: FlaskClient, services: Services, history: None) -> None:
    with services.store.write() as session:
        for row in session.scalars(select(Annotation).where(Annotation.prediction_version == "p1.v0")):
            row.is_deleted = True
    rows = read_rows(get(client, f"{P1}?target=0.9"))
    assert rows["circle"][0] == "enough to trust"  # 60 of 60
    assert rows["star"][0].startswith("too few to tell")
    assert read_rows(get(client, f"{P1}?target=0.98"))["circle"][0].startswith("too few to tell some")
    assert client.get(f"{P1}?target=0.5").status_code == 400


def test_a_cell_of_the_confusion_matrix_opens_its_tasks_in_label_studio(
    client: FlaskClient, history: None
) -> None:
    html = get(client, P1)
    link = re.search(r'href="([^"]+)" aria-label="2 tasks: submitted star, predicted square"', html)
    assert link is not None
    tasks = re.findall(r'href="([^"]+)">task (\d+)<', get(client, unescape(link[1])))
    assert len(tasks) == 2
    shown = get(client, unescape(link[1]))
    for url, task_id in tasks:
        assert url == f"{page_history.ADDRESS}/projects/1/data?task={task_id}"
        assert f'src="{P1}/tasks/{task_id}/thumbnail"' in shown


def test_a_cell_with_many_tasks_has_pages(
    client: FlaskClient, history: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.pages.paging.PER_PAGE", 1)
    cell = re.search(r'href="([^"]+)" aria-label="2 tasks: submitted star', get(client, P1))
    assert cell is not None
    first = get(client, unescape(cell[1]))
    older = re.search(r'href="([^"]+page=2[^"]*)"', first)
    assert older is not None
    second = get(client, unescape(older[1]))
    pages = [re.findall(r">task (\d+)<", html) for html in (first, second)]
    assert [len(page) for page in pages] == [1, 1] and pages[0] != pages[1]


def test_versions_are_listed_with_both_scores_and_what_annotators_accepted(
    client: FlaskClient, history: None
) -> None:
    rows = read_rows(get(client, P1))
    assert rows["p1.v3"][:6] == [
        "live",
        "92.5 % accuracy, 80 % to 97 %",
        "75.0 %",
        "40",
        "119",
        "96 % of 135",
    ]
    assert rows["p1.v2"][0] == "rejected"
    assert rows["p1.v0"][5] == "55 % of 40"


def test_the_base_models_are_the_line_to_compare_with(client: FlaskClient, history: None) -> None:
    assert "base models alone 55 % of 40" in get(client, P1).replace("\u00a0", " ")


def test_a_version_says_how_it_was_judged(client: FlaskClient, history: None) -> None:
    html = get(client, f"{P1}/versions/v3")
    rows = read_rows(html)
    assert rows["accuracy decides, 80 % to 97 %"] == ["0.925", "0.750", "+0.175"]
    assert rows["rank"] == ["8"]
    assert rows["shape"] == ["p1.v3/shape", "hf-hub:base", "–"]
    said = text_of(html)
    assert "accuracy 0.925 is better than live's 0.750 on 40 held-out tasks" in said
    assert "training loss of shape by step" in html
    assert "compared" not in rows


def test_a_version_from_before_metrics_were_named_finds_its_figure_in_the_decision(
    client: FlaskClient, services: Services, history: None
) -> None:
    with services.store.write() as session:
        row = page_history.version(4, 3, VersionState.REJECTED, 0.9, 0.925)
        row.metrics = {name: value for name, value in row.metrics.items() if name != "primary"}
        session.add(row)
    assert read_rows(get(client, P1))["p1.v4"][1].startswith("90.0 % accuracy")


def test_runs_are_listed_with_their_outcome(client: FlaskClient, history: None) -> None:
    html = get(client, "/ui/runs")
    rows = read_rows(html)
    assert rows["Training 4"][:3] == ["Project 1", "failed", "the device has no memory left"]
    assert rows["Training 3"][2] == "made v3"
    assert rows["Predictions 1"][3] == "120 of 120 tasks"
    assert "42 s left" in text_of(html)


def test_a_run_shows_its_log(client: FlaskClient, history: None) -> None:
    rows = read_rows(get(client, f"{P1}/training/4"))
    assert "the picture cannot be read" in rows["annotation 7"][0]
    assert "failed, begun for: 40 new annotations" in rows["training run 4"][0]


def test_lists_are_read_a_page_at_a_time(client: FlaskClient, services: Services, history: None) -> None:
    with services.store.write() as session:
        session.add_all([page_history.run(number, RunState.FINISHED) for number in range(6, 40)])
    first, second = (read_rows(get(client, f"/ui/runs?training={number}")) for number in (1, 2))
    runs = [{name for name in rows if name.startswith("Training ")} for rows in (first, second)]
    assert [len(names) for names in runs] == [25, 14]
    assert "Training 39" in runs[0] and "Training 1" in runs[1]
    assert client.get("/ui/runs?training=x").status_code == 400
    assert client.get("/ui/runs?training=1&endpoint=x&_method=POST&_external=1").status_code == 200


def test_events_are_sent_when_the_active_runs_have_changed(
    client: FlaskClient, services: Services, history: None
) -> None:
    answer = client.get("/ui/events?project=1")
    assert answer.content_type == "text/event-stream"
    fields = dict(line.split(": ", 1) for line in answer.text.splitlines() if ": " in line)
    assert "data: " in answer.text and "18 of 60 steps" in text_of(answer.text)
    same = client.get("/ui/events?project=1", headers={"Last-Event-ID": fields["id"]})
    assert "data" not in same.text and "retry: 2000" in same.text
    with services.store.write() as session:
        session.get_one(TrainingRun, 5).step = 30
    services.active_runs.forget()
    changed = client.get("/ui/events?project=1", headers={"Last-Event-ID": fields["id"]})
    assert "30 of 60 steps" in text_of(changed.text)
    assert "Nothing goes on" in client.get("/ui/events?project=2").text


def test_names_are_escaped_wherever_they_come_from(client: FlaskClient, services: Services, history: None) -> None:
    with services.store.write() as session:
        session.get_one(Project, 1).label_studio_url = f"http://labels.example.com/{HOSTILE}"
        for run in session.scalars(select(TrainingRun)):
            run.error = run.reason = HOSTILE
            run.metrics = {"skipped": {HOSTILE: {"1": HOSTILE}}}
            run.losses = {HOSTILE: [[1, 0.5]]}
        for annotation in session.scalars(select(Annotation)):
            annotation.prediction_result = page_history.result(HOSTILE)
    for path in PAGES:
        assert "<script>alert" not in get(client, path), path


def test_pages_load_nothing_from_elsewhere_and_run_nothing_that_is_written_into_them(
    client: FlaskClient, history: None
) -> None:
    for path in PAGES:
        answer = client.get(path)
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy
        assert answer.headers["Cache-Control"] == "no-store"
        assert not re.search(r'<script(?![^>]* src=)| style="| on\w+="|<style', answer.text), path
        loaded = re.findall(r'<(?:script|img|link)[^>]* (?:src|href)="([^"]+)"', answer.text)
        assert loaded and all(url.startswith("/ui/") for url in loaded)


def test_static_files_are_served(client: FlaskClient) -> None:
    for name in ("pages.css", "pages.js", "icon.svg", "no-picture.svg"):
        with client.get(f"/ui/static/{name}") as answer:
            assert answer.status_code == 200


@pytest.mark.parametrize(
    "path", ["/ui/nothing", "/ui/projects/9", f"{P1}/versions/9", f"{P1}/versions/x", f"{P1}/training/99"]
)
def test_what_does_not_exist_is_said_in_a_page(client: FlaskClient, history: None, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert answer.content_type.startswith("text/html")
    assert "<h1>There is no such page</h1>" in answer.text


def test_pages_need_the_password(settings: Settings) -> None:
    login = {"basic_auth_user": "lead", "basic_auth_pass": "secret"}
    app: Flask = create_app(Settings(**{**settings.model_dump(), **login}))
    try:
        for path in ("/", "/ui/", P1, "/ui/events", "/ui/static/pages.css"):
            answer = app.test_client().get(path)
            assert answer.status_code == 401
            assert answer.headers["WWW-Authenticate"].startswith("Basic ")
        assert "User and password are needed" in app.test_client().get("/ui/").text
        assert app.test_client().get("/ui/", auth=("lead", "secret")).status_code == 200
    finally:
        app.extensions[EXTENSION].close()


def test_every_kind_of_bulk_run_has_a_name() -> None:
    assert set(KINDS) == set(BulkRunKind)
