"""What the commands that only read print: for people in 80 columns, and for scripts as JSON."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from lorabel.database import label_error_reports, projects, training_runs
from lorabel.database.store import Store
from lorabel.database.tables import (
    Annotation,
    BulkRun,
    BulkRunKind,
    Event,
    EventState,
    ModelVersion,
    RunState,
    TrainingRun,
    UnreadableTask,
    VersionState,
)
from tests.backend import requests
from tests.backend.fake_model_server import FakeModelServer
from tests.lorabel.commands.conftest import RunLorabel
from tests.lorabel.fake_label_studio import PERSONAL_TOKEN, FakeLabelStudio, serve
from tests.workers.conftest import add_tasks

TITLE = "Shapes [of 2026] as annotators see them"
DECISION = (
    "label: accuracy 0.812 is better than live's 0.700 on 64 tasks, new ones cross-validated (16 held out, "
    "20 needed to tell)"
)
NARROW = {"COLUMNS": "80"}
CREATED_AT = datetime(2026, 11, 26, 18, 54, tzinfo=UTC)


def version(number: int, parent: int, state: VersionState, candidate: float, live: float) -> ModelVersion:
    """A version that was measured on 60 tasks and as many as its number."""
    scores = [
        {"tasks": 60 + number, "accuracy": value, "labels": ["red"], "roc_auc": None}
        for value in (candidate, live)
    ]
    return ModelVersion(
        project_id=1,
        number=number,
        parent=parent,
        state=state,
        base_models={"label": "hf-hub:owner/name"},
        adapters={"label": f"p1.v{number}/label"},
        metrics={"candidate": {"label": scores[0]}, "live": {"label": scores[1]}, "decision": DECISION},
        trained_on=list(range(40 * number)),
        created_at=CREATED_AT + timedelta(days=number),
    )


@pytest.fixture(autouse=True)
def project_with_versions(store: Store) -> None:
    projects.upsert(store, 1, label_config=requests.CONFIG, live_number=1)
    with store.write() as session:
        removed = version(2, 1, VersionState.REJECTED, 0.6, 0.812)
        removed.adapters_removed_at = CREATED_AT
        session.add_all(
            [
                version(1, 0, VersionState.LIVE, 0.812, 0.7),
                removed,
                version(3, 1, VersionState.RETIRED, 0.9, 0.825),
            ]
        )
        session.add(TrainingRun(id=7, project_id=1, state=RunState.FINISHED, reason="20 new", decision=DECISION))


@pytest.fixture
def label_studio(store: Store) -> Any:
    label_studio = FakeLabelStudio()
    label_studio.settings["title"] = TITLE
    with serve(label_studio):
        projects.upsert(store, 1, label_studio_url=label_studio.url, api_key=PERSONAL_TOKEN)
        yield label_studio


def assert_fits(output: str, *whole: str) -> None:
    """No line is longer than 80 characters, and no word, date or name is cut in two."""
    assert [line for line in output.splitlines() if len(line) > 80] == []
    words = output.split()
    for text in whole:
        assert [word for word in text.split() if word not in words] == []


def read_json(lorabel: RunLorabel, *command: str, **variables: str) -> Any:
    result = lorabel(*command, "--json", **NARROW, **variables)
    assert result.exit_status == 0, result.errors
    return json.loads(result.output)


def test_status_fits_80_columns_and_shows_the_title(
    lorabel: RunLorabel, label_studio: FakeLabelStudio, store: Store
) -> None:
    projects.upsert(store, 1_000_000, label_studio_id=3, live_number=12)
    status = lorabel("status", **NARROW)
    assert_fits(status.output, TITLE, DECISION, "p1.v1", "p1000000.v12", "7 finished:", "none yet")
    assert label_studio.requests.count("/api/projects/") == 1


def test_status_says_why_a_title_is_missing(
    lorabel: RunLorabel, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    projects.upsert(store, 1, label_studio_url="http://127.0.0.1:9", api_key="token")
    status = lorabel("status", **NARROW)
    assert status.exit_status == 0 and "p1.v1" in status.output
    assert "titles of projects are missing: Label Studio at http://127.0.0.1:9 cannot be" in caplog.text


def test_another_project_with_the_same_id_gives_no_title(
    lorabel: RunLorabel, label_studio: FakeLabelStudio, store: Store
) -> None:
    """Label Studio was reset."""
    projects.upsert(store, 1, label_studio_created_at=CREATED_AT)
    status = lorabel("status", **NARROW).output
    assert "p1.v1" in status and "Shapes" not in status


def test_versions_fit_80_columns_and_end_with_the_base_models(
    lorabel: RunLorabel, label_studio: FakeLabelStudio
) -> None:
    versions = lorabel("versions", "1", **NARROW).output
    assert_fits(versions, TITLE, DECISION, "2026-11-27 18:54", "120", "retired live base removed")
    order = [versions.index(name) for name in ("p1.v3", "p1.v2", "p1.v1", "p1.v0")]
    assert order == sorted(order)
    assert "p1.v0 is live" in lorabel("promote", "1", "v0").output


@pytest.mark.usefixtures("label_studio")
def test_status_and_versions_are_json_for_scripts(lorabel: RunLorabel) -> None:
    (project,) = read_json(lorabel, "status")["projects"]
    assert (project["id"], project["title"], project["live_version"]) == (1, TITLE, "p1.v1")
    assert (project["run"]["id"], project["run"]["decision"]) == (7, DECISION)
    versions = read_json(lorabel, "versions", "1")
    assert versions["live_version"] == "p1.v1"
    parents = [(row["version"], row["parent"], row["state"]) for row in versions["versions"]]
    assert parents == [
        ("p1.v3", "p1.v1", "retired"),
        ("p1.v2", "p1.v1", "rejected"),
        ("p1.v1", "p1.v0", "live"),
        ("p1.v0", None, "retired"),
    ]
    assert versions["versions"][0]["created_at"] == "2026-11-29T18:54:00Z"
    assert versions["versions"][2]["trained_on"] == list(range(40))


@pytest.mark.usefixtures("label_studio")
def test_compare_shows_scores_on_the_same_tasks_where_it_can(lorabel: RunLorabel) -> None:
    """v3 was measured together with v1, its parent: 0.825 then, and not v1's own 0.812."""
    compare = lorabel("compare", "p1.v1", "v3", **NARROW)
    assert compare.exit_status == 0, compare.errors
    assert_fits(compare.output, TITLE, DECISION, "p1.v1", "p1.v3", "2026-11-29 18:54")
    lines = {line.split("  ")[0].strip(): line.split() for line in compare.output.splitlines()}
    assert lines["label: accuracy"][-3:] == ["0.825", "0.900", "+0.075"]
    assert lines["label: tasks"][-2:] == ["63", "63"]
    assert "different tasks" not in compare.output
    turned = read_json(lorabel, "compare", "p1.v3", "p1.v1")["scores"]
    accuracy = next(score for score in turned if score["metric"] == "accuracy")
    assert (accuracy["first"], accuracy["second"], accuracy["are_tasks_same"]) == (0.9, 0.825, True)


def test_compare_says_where_the_tasks_differ_and_compares_with_the_base_models(lorabel: RunLorabel) -> None:
    siblings = lorabel("compare", "p1.v2", "3", **NARROW).output
    assert "label: accuracy *" in siblings and "* measured on different tasks" in siblings
    scores = read_json(lorabel, "compare", "p1.v0", "v1")["scores"]
    assert [(score["first"], score["second"]) for score in scores if score["metric"] == "accuracy"] == [
        (0.7, 0.812)
    ]


def test_compare_and_versions_have_the_same_words_for_states(lorabel: RunLorabel) -> None:
    """The base models are `base`, and a version without its adapters is `removed`."""
    versions = lorabel("versions", "1", **NARROW).output
    for name, other, states in (("p1.v0", "v2", "base rejected, removed"), ("p1.v3", "v1", "retired live")):
        assert_fits(versions, states)
        assert_fits(lorabel("compare", name, other, **NARROW).output, states)
    lorabel("promote", "1", "v0")
    state = next(line for line in lorabel("compare", "p1.v0", "v1").output.splitlines() if "state" in line)
    assert state.split() == ["state", "live", "retired"]


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (("v1", "v3"), "'v1' is no full name of a version; expected for example p1.v3"),
        (("p1.v1", "p1.v9"), "no version p1.v9; known: p1.v3, p1.v2, p1.v1, p1.v0"),
        (("p1.v1", "p2.v1"), "'p2.v1' names no version of project 1"),
        (("p7.v0", "v1"), "project 7 is not known here"),
    ],
)
def test_compare_refuses_what_is_no_version(lorabel: RunLorabel, names: tuple[str, str], reason: str) -> None:
    compare = lorabel("compare", *names)
    assert compare.exit_status == 1
    assert f"error: {reason}" in compare.errors


@pytest.fixture
def reasons(store: Store) -> list[tuple[str, str]]:
    """Rows with reasons of projects 1 and 2; what of them is about project 1, the newest first."""
    times = [CREATED_AT + timedelta(minutes=minute) for minute in range(6)]
    skipped = {
        "skipped": {"label": {"17": "its picture is [broken]"}},
        "left_out": {"mask": {"18": "a polygon with 2 points has no area"}},
    }
    with store.write() as session:
        session.delete(session.get_one(TrainingRun, 7))
        run = TrainingRun(id=8, project_id=1, state=RunState.FINISHED, reason="20 new", decision=DECISION)
        run.metrics, run.finished_at = skipped, times[1]
        failed = TrainingRun(id=9, project_id=1, state=RunState.FAILED, reason="30 new", error="no memory")
        failed.created_at, failed.finished_at = times[0], times[4]
        bulk_run = BulkRun(
            id=3, project_id=1, state=RunState.FINISHED, kind=BulkRunKind.PREDICTIONS, reason="asked"
        )
        bulk_run.only_unlabeled, bulk_run.finished_at = False, times[2]
        bulk_run.failures = [{"task_id": 5, "reason": "404"}]
        unreadable = [
            UnreadableTask(project_id=project_id, task_id=6, reason="403", is_permanent=False, seen_at=times[5])
            for project_id in (1, 2)
        ]
        event = Event(
            id=4, action="TASKS_DELETED", project_id=1, payload="", state=EventState.FAILED, error="no id"
        )
        event.applied_at = times[3]
        session.add_all([run, failed, bulk_run, *unreadable, event])
    return [
        ("task 6", "cannot be read for now: 403"),
        ("training run 9", "failed, begun for: 30 new; no memory"),
        ("event 4", "TASKS_DELETED failed: no id"),
        ("bulk run 3", "finished, begun for: asked"),
        ("task 5", "failed in bulk run 3: 404"),
        ("training run 8", f"finished, begun for: 20 new; {DECISION}"),
        ("annotation 17", "not learned from, label: its picture is [broken]"),
        ("annotation 18", "learned from in part, mask: a polygon with 2 points has no area"),
    ]


def test_logs_show_the_reasons_of_a_project_newest_first(
    lorabel: RunLorabel, label_studio: FakeLabelStudio, reasons: list[tuple[str, str]]
) -> None:
    logs = lorabel("logs", "1", **NARROW)
    assert logs.exit_status == 0, logs.errors
    assert_fits(logs.output, TITLE, "2026-11-26 18:59", *(text for reason in reasons for text in reason))
    shown = read_json(lorabel, "logs", "1")["reasons"]
    assert [(row["subject"], row["reason"]) for row in shown] == reasons
    assert shown[0]["at"] == "2026-11-26T18:59:00Z"
    assert len(read_json(lorabel, "logs", "1", "--most", "2")["reasons"]) == 2
    assert "project 9 is not known here" in lorabel("logs", "9").errors


@pytest.mark.usefixtures("label_studio")
def test_label_errors_fit_80_columns_and_are_json_for_scripts(lorabel: RunLorabel, store: Store) -> None:
    assert read_json(lorabel, "label-errors", "1", "--last") == {"report": None}
    labels = ("a label [with brackets] of a long name", "another label of an equally long name")
    fields = ("from_name", "task_id", "annotation_id", "given", "suggested", "score")
    error = dict(zip(fields, ("label", 123_456, 7_654_321, *labels, 0.25), strict=True))
    with store.write() as session:
        label_error_reports.write(session, BulkRun(id=7, project_id=1), 25, [error] * 3, ["no [labels]"])
    last = lorabel("label-errors", "1", "--last", **NARROW).output
    assert_fits(last, TITLE, *labels, "123456 7654321", "left out: no [labels]")
    report = read_json(lorabel, "label-errors", "1", "--last", "--most", "2")["report"]
    assert (report["checked"], report["found"], report["left_out"]) == (25, 3, ["no [labels]"])
    assert report["errors"] == [error] * 2


def test_search_and_doctor_are_json_for_scripts(
    lorabel: RunLorabel, label_studio: FakeLabelStudio, model_server: FakeModelServer
) -> None:
    add_tasks(label_studio, "blue-star", "red-star")
    found = read_json(lorabel, "search", "1", "a red star", "--limit", "1", MODEL_SERVER_URL=model_server.url)
    assert [hit["task_id"] for hit in found["hits"]] == [2]
    assert found["hits"][0]["url"] == f"{label_studio.url}/projects/1/data?task=2"
    doctor = lorabel("doctor", "--json")
    checks = {check["name"]: check for check in json.loads(doctor.output)["checks"]}
    assert doctor.exit_status == 1 and not checks["redis"]["is_ok"] and checks["redis"]["remedy"]


def test_training_runs_newest_is_the_last_one(store: Store) -> None:
    with store.write() as session:
        session.add(TrainingRun(id=8, project_id=1, state=RunState.FAILED, reason="more"))
    with store.read() as session:
        newest = training_runs.newest(session, 1)
        assert newest is not None and newest.id == 8
        assert training_runs.newest(session, 2) is None


def test_versions_say_how_many_predictions_annotators_accepted(lorabel: RunLorabel, store: Store) -> None:
    with store.write() as session:
        session.add_all(
            Annotation(project_id=1, id=number, prediction_version=version, is_accepted=number % 4 != 0)
            for number, version in enumerate(["p1.v3.h1"] * 8 + ["p1.v0"] * 3, 1)
        )
    words = " ".join(lorabel("versions", "1").output.split())
    assert "annotators accepted 6 of 8" in words
    rows = {
        row["version"]: (row["accepted"], row["shown"]) for row in read_json(lorabel, "versions", "1")["versions"]
    }
    assert rows == {"p1.v3": (6, 8), "p1.v2": (0, 0), "p1.v1": (0, 0), "p1.v0": (3, 3)}
