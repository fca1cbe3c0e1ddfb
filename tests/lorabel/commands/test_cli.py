"""The commands as people run them: arguments in, output and exit status out."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lorabel.database import bulk_runs, label_error_reports, leases, projects, training_runs, versions
from lorabel.database.store import Store
from lorabel.database.tables import BulkRun, ModelVersion, RunState, VersionState
from lorabel.problems.image_classification import ImageClassification
from lorabel.settings import Settings
from tests.backend import requests
from tests.backend.fake_model_server import FakeModelServer
from tests.lorabel.commands.conftest import CommandResult, RunLorabel, environment
from tests.lorabel.fake_label_studio import LEGACY_TOKEN, PERSONAL_TOKEN, FakeLabelStudio, serve
from tests.servers import free_port
from tests.workers.conftest import add_tasks

PROGRAM = Path(sys.prefix) / "bin" / "lorabel"


@pytest.fixture(autouse=True)
def project_with_a_version(store: Store) -> None:
    projects.upsert(store, 1, label_config=ImageClassification.SAMPLES[0].label_config)
    with store.write() as session:
        session.add(
            ModelVersion(
                project_id=1,
                number=1,
                parent=0,
                state=VersionState.REJECTED,
                base_models={},
                adapters={},
                metrics={"decision": "label: accuracy 0.700 is worse than live's 0.800"},
                trained_on=[1, 2, 3],
            )
        )


@pytest.fixture
def connected_project(store: Store) -> None:
    projects.upsert(store, 1, label_studio_url="http://label-studio.test", api_key="token")


def test_versions_can_be_listed_promoted_and_rolled_back(lorabel: RunLorabel) -> None:
    versions = lorabel("versions", "1")
    assert versions.exit_status == 0, versions.errors
    assert "p1.v1" in versions.output and "accuracy 0.700 is worse" in versions.output
    assert "p1.v1 is live" in lorabel("promote", "1", "v1").output
    assert "p1.v0 is live" in lorabel("rollback", "1").output
    second_rollback = lorabel("rollback", "1")
    assert second_rollback.exit_status == 1
    assert "error: project 1 runs on the base models: there is nothing to go back to" in second_rollback.errors


def test_a_run_is_queued_without_redis_and_status_shows_its_progress(lorabel: RunLorabel, store: Store) -> None:
    train = lorabel("train", "1")
    assert "run 1 of project 1 is queued" in train.output
    assert "the run starts with the next sweep" in train.output
    claimed = training_runs.claim(store, 1)
    assert claimed is not None
    training_runs.report(store, claimed, step=7, steps=60, loss=0.5, seconds_left=12.0)
    status = lorabel("status").output
    for part in ("p1.v0", "running", "7 of 60", "0.500", "12", "lorabel train"):
        assert part in status


def test_status_says_by_what_a_run_was_better_than_the_head_alone(lorabel: RunLorabel, store: Store) -> None:
    lorabel("train", "1")
    claimed = training_runs.claim(store, 1)
    assert claimed is not None
    metrics = {versions.OVER_HEAD: {"mood": {"log_loss": 0.2, "standard_error": 0.05, "is_sure": True}}}
    with store.write() as session:
        training_runs.finish(session, claimed, RunState.FINISHED, decision="mood: better", metrics=metrics)
    assert "mood: better" in lorabel("status").output
    (project,) = json.loads(lorabel("status", "--json").output)["projects"]
    assert project["run"]["over_head"] == metrics[versions.OVER_HEAD]


def test_a_project_without_token_gets_no_bulk_run(lorabel: RunLorabel, store: Store) -> None:
    preannotate = lorabel("preannotate", "1")
    assert preannotate.exit_status == 1
    assert "connect it with `lorabel connect`" in preannotate.errors
    assert _bulk_runs(store) == []


@pytest.mark.usefixtures("connected_project")
def test_a_bulk_run_is_queued_and_cancelled(lorabel: RunLorabel, store: Store) -> None:
    preannotate = lorabel("preannotate", "1", "--tasks", "3, 1", "--detach")
    assert "bulk run 1 of project 1 is queued" in preannotate.output
    assert [run.task_ids for run in _bulk_runs(store)] == [[1, 3]]
    cancel = lorabel("preannotate", "1", "--cancel")
    assert "bulk run 1 cancelled: 0 tasks predicted, 0 had a prediction already, 0 failed" in cancel.output
    assert "has no bulk run" in lorabel("preannotate", "1", "--cancel").output


def test_task_ids_that_are_no_numbers_are_refused(lorabel: RunLorabel) -> None:
    preannotate = lorabel("preannotate", "1", "--tasks", "one")
    assert preannotate.exit_status == 2
    assert "'one' are no task ids" in preannotate.errors


@pytest.mark.usefixtures("connected_project")
def test_an_order_is_queued_by_its_strategy(lorabel: RunLorabel, store: Store) -> None:
    order = lorabel("order", "1", "--strategy", "margin", "--detach")
    assert "bulk run 1 of project 1 is queued" in order.output
    assert [run.strategy for run in _bulk_runs(store)] == ["margin"]
    assert "'alphabet' is not one of" in lorabel("order", "1", "--strategy", "alphabet").errors


@pytest.mark.slow
@pytest.mark.usefixtures("connected_project")
def test_ctrl_c_ends_the_command_and_not_the_bulk_run(settings: Settings, store: Store) -> None:
    """Runs the installed program, which must get the signal itself."""
    # A shell lets programs in the background ignore Ctrl-C, and this test may have been started by such a program.
    argv = ["env", "--default-signal=INT", str(PROGRAM), "preannotate", "1"]
    variables = {**os.environ, **environment(settings)}
    with subprocess.Popen(argv, env=variables, stdout=subprocess.PIPE, text=True) as command:
        try:
            assert command.stdout is not None
            # The command prints this after it has queued the run, and then waits for the end of the run.
            assert "Redis cannot be reached" in command.stdout.readline()
            command.send_signal(signal.SIGINT)
            output, _ = command.communicate(timeout=30)
        finally:
            command.kill()
    assert command.returncode == 130
    assert "bulk run 1 goes on; `lorabel preannotate 1 --cancel` ends it" in output
    assert [run.state for run in _bulk_runs(store)] == [RunState.QUEUED]


@pytest.mark.usefixtures("connected_project")
@pytest.mark.parametrize(("state", "exit_status"), [(RunState.FINISHED, 0), (RunState.FAILED, 1)])
def test_the_command_follows_a_bulk_run_to_its_end_and_reports(
    lorabel: RunLorabel, store: Store, state: RunState, exit_status: int
) -> None:
    with ThreadPoolExecutor() as pool:
        worker = pool.submit(_end_next_bulk_run, store, state)
        preannotate = lorabel("preannotate", "1", "--all")
        worker.result()
    assert preannotate.exit_status == exit_status
    assert f"{state}: 5 tasks predicted, 2 had a prediction already, 1 failed" in preannotate.output
    assert "task 7: 403" in preannotate.output


def test_label_errors_are_found_by_a_bulk_run_and_then_listed(lorabel: RunLorabel, store: Store) -> None:
    assert "no run has looked for label errors in project 1 yet" in lorabel("label-errors", "1", "--last").output
    fields = ("from_name", "task_id", "annotation_id", "given", "suggested", "score")
    error = dict(zip(fields, ("label", 3, 103, "red", "blue", 0.25), strict=True))
    with store.write() as session:
        run = BulkRun(id=7, project_id=1)
        label_error_reports.write(session, run, 25, [error] * 3, ["label: 'green' was given to 4 tasks"])
    with ThreadPoolExecutor() as pool:
        worker = pool.submit(_end_next_bulk_run, store, RunState.FINISHED)
        found = lorabel("label-errors", "1", "--most", "2")
        worker.result()
    assert found.exit_status == 0, found.errors
    assert "bulk run 1 finished: 5 annotated tasks compared, 2 not compared, 1 failed" in found.output
    assert "left out: label: 'green' was given to 4 tasks" in found.output
    last = lorabel("label-errors", "1", "--most", "2", "--last").output
    for output in (found.output, last):
        assert output.count("103") == 2
        assert "3 of 25 annotations are probably wrong" in output


def _end_next_bulk_run(store: Store, state: RunState) -> None:
    """What a bulk worker does, without the work in between."""
    while not (waiting := _bulk_runs(store)):
        time.sleep(0.05)
    claimed = leases.claim(store, BulkRun, waiting[0].id)
    assert claimed is not None
    failures = [{"task_id": 7, "reason": "403"}]
    with store.write() as session:
        leases.finish(session, claimed, state, done=5, skipped=2, failed=1, failures=failures, total=8)


def _bulk_runs(store: Store) -> list[BulkRun]:
    with store.read() as session:
        return bulk_runs.list_of(session, 1)


def test_an_unknown_project_is_an_error_of_one_line(lorabel: RunLorabel) -> None:
    train = lorabel("train", "99")
    assert train.exit_status == 1
    assert train.errors.startswith("error: project 99 is not known here")
    assert "Traceback" not in train.errors


def test_wrong_settings_are_named_and_no_secret_is_printed(lorabel: RunLorabel) -> None:
    secrets = {"LABEL_STUDIO_API_KEY": "hunter2", "BASIC_AUTH_PASS": "hunter2"}
    without_user = lorabel("status", **secrets)
    assert without_user.exit_status == 1
    assert "BASIC_AUTH_USER and BASIC_AUTH_PASS belong together" in without_user.errors
    wrong_port = lorabel("status", PORT="many", **secrets)
    assert wrong_port.errors.startswith("error: settings: ")
    assert "PORT: Input should be a valid integer" in wrong_port.errors
    for result in (without_user, wrong_port):
        assert "hunter2" not in result.output + result.errors


def test_search_prints_tasks_with_their_similarity_and_links(
    lorabel: RunLorabel, store: Store, model_server: FakeModelServer
) -> None:
    label_studio = FakeLabelStudio()
    add_tasks(label_studio, "blue-star", "red-star", "red-circle")
    with serve(label_studio):
        projects.upsert(
            store, 1, label_config=requests.CONFIG, label_studio_url=label_studio.url, api_key=PERSONAL_TOKEN
        )
        search = lorabel("search", "1", "a red star", "--limit", "2", MODEL_SERVER_URL=model_server.url)
        assert search.exit_status == 0, search.errors
        lines = [line for line in search.output.splitlines() if label_studio.url in line]
        assert ["1.000" in lines[0], "2" in lines[0], len(lines)] == [True, True, 2]
        assert f"{label_studio.url}/projects/1/data?task=2" in lines[0]
        similar = lorabel("search", "1", "--task", "3", "--limit", "1", MODEL_SERVER_URL=model_server.url)
        assert f"{label_studio.url}/projects/1/data?task=2" in similar.output


def test_a_search_needs_a_text_or_a_task(lorabel: RunLorabel) -> None:
    assert lorabel("search", "1").exit_status == 2
    assert lorabel("search", "1", "a red star", "--task", "3").exit_status == 2


COMMANDS = [
    ("migrate",),
    ("up",),
    ("status",),
    ("versions", "1"),
    ("promote", "1", "v1"),
    ("rollback", "1"),
    ("train", "1"),
    ("preannotate", "1"),
    ("order", "1"),
    ("label-errors", "1"),
    ("search", "1", "red"),
    ("index", "1"),
]


@pytest.mark.parametrize(
    ("url", "instead"),
    [
        ("localhost:8080", "has no scheme; write http://localhost:8080,"),
        ("label.example.com", "has no scheme; write http://label.example.com, or https://"),
        ("localhost:8080/projects/7", "has no scheme; write http://localhost:8080 and --project 7,"),
        ("what is this", "has no scheme; write http://localhost:8080,"),
        ("http://localhost:8080/projects/7", "write http://localhost:8080 and --project 7"),
        ("https://a.test/labels/projects/7/data?tab=3", "write https://a.test/labels and --project 7"),
        ("http://localhost:8080/user/login/", "write http://localhost:8080"),
        ("http://localhost:8080/?next=/", "write http://localhost:8080"),
        ("ftp://localhost", "is no address of a web server"),
        ("http://localhost:port", "is no address of a web server"),
    ],
)
def test_a_wrong_address_of_label_studio_is_told_with_what_to_write_instead(
    lorabel: RunLorabel, url: str, instead: str
) -> None:
    for result in (
        lorabel("connect", "--label-studio-url", url, "--api-key", "k", "--project", "1"),
        lorabel("connect", "--project", "1", LABEL_STUDIO_URL=url, LABEL_STUDIO_API_KEY="k"),
    ):
        assert_is_one_line(result, repr(url))
        assert instead in result.errors


def test_the_token_comes_from_the_option_the_environment_or_a_prompt_and_is_not_shown(
    lorabel: RunLorabel, monkeypatch: pytest.MonkeyPatch
) -> None:
    label_studio = FakeLabelStudio()
    with serve(label_studio):
        connect = ("connect", "--label-studio-url", label_studio.url, "--project", "1")
        assert_is_one_line(lorabel(*connect), "give the token as LABEL_STUDIO_API_KEY or --api-key")
        assert label_studio.requests == []
        by_variable = lorabel(*connect, LABEL_STUDIO_API_KEY=LEGACY_TOKEN)
        monkeypatch.setattr("sys.stdin.isatty", lambda: True)
        monkeypatch.setattr("getpass.getpass", lambda prompt: f"{LEGACY_TOKEN}\n")
        by_prompt = lorabel(*connect)
        for result in (by_variable, by_prompt):
            assert "as annotator@example.com" in result.output, result.errors
            assert LEGACY_TOKEN not in result.output + result.errors


def test_status_without_a_project_says_how_to_connect_one(lorabel: RunLorabel, tmp_path: Path) -> None:
    status = lorabel("status", DATABASE_URL=f"sqlite:///{tmp_path / 'empty.db'}")
    assert "`lorabel connect` connects one" in status.output


def test_connect_leaves_a_project_alone_of_which_nothing_is_served(lorabel: RunLorabel, store: Store) -> None:
    label_studio = FakeLabelStudio()
    with serve(label_studio):
        result = lorabel(
            "connect", "--label-studio-url", label_studio.url, "--project", "1", LABEL_STUDIO_API_KEY=LEGACY_TOKEN
        )
    assert result.exit_status == 1
    assert "not connected: see the failed step; nothing was changed" in result.output
    assert "media" not in result.output
    assert "/api/ml/" not in label_studio.requests


def test_no_web_page_reaches_the_terminal(lorabel: RunLorabel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another program answers at the address: with a page, and with status 200 or 404."""
    label_studio = FakeLabelStudio()
    page = "<!doctype html><html><title>Grafana</title></html>"
    with serve(label_studio):
        for status in (200, 302, 401, 404, 500):
            monkeypatch.setattr(label_studio, "answer", lambda *_, status=status: (status, page))
            for token in (LEGACY_TOKEN, PERSONAL_TOKEN):
                result = lorabel(
                    "connect", "--label-studio-url", label_studio.url, "--project", "1", "--api-key", token
                )
                assert_is_one_line(result, label_studio.url)
                assert "<" not in result.errors and "Grafana" not in result.errors


def test_a_base_model_whose_folder_is_missing_is_told_before_anything_is_started(
    lorabel: RunLorabel, tmp_path: Path
) -> None:
    """Also by `demo`, before it installs Label Studio."""
    missing, data, file = tmp_path / "nowhere", tmp_path / "fresh", tmp_path / "file"
    file.touch()
    variables = {
        **{"DATA_DIR": str(data), "DATABASE_URL": "", "REDIS_URL": "", "FAMILIES": "text_encoder, dual_encoder"},
        **{"TRAIN_AFTER_ANNOTATIONS": "8", "TRAIN_AFTER_SECONDS": "20"},  # `demo` would leave them set
    }
    handler = signal.getsignal(signal.SIGTERM)  # both set their own
    for command in (("up",), ("demo", "--headless")):
        for folder, fault in ((missing, "does not exist"), (file, "is a file")):
            source = f"local-dir:{folder}"
            result = lorabel(*command, **variables, MODEL_DUAL_ENCODER=source)
            assert_is_one_line(result, f"MODEL_DUAL_ENCODER={source!r} cannot be loaded: '{folder}' {fault}; set")
            assert "lorabel fetch-model dual_encoder FOLDER" in result.errors
    signal.signal(signal.SIGTERM, handler)
    assert not data.exists()


CONNECT = ("connect", "--label-studio-url", "http://127.0.0.1:9", "--api-key", "k", "--project", "1")


def assert_is_one_line(result: CommandResult, reason: str) -> None:
    assert result.exit_status == 1
    assert reason in result.errors
    assert "Traceback" not in result.output + result.errors
    assert len(result.errors.strip().splitlines()) == 1


@pytest.mark.parametrize("command", [*COMMANDS, CONNECT, ("doctor",), ("demo", "--headless")])
def test_a_data_dir_that_is_a_file_is_told_in_one_line(
    lorabel: RunLorabel, tmp_path: Path, command: tuple[str, ...]
) -> None:
    file = tmp_path / "file"
    file.touch()
    for folder in (file, file / "below"):
        result = lorabel(*command, DATA_DIR=str(folder), DATABASE_URL="")
        assert_is_one_line(result, f"DATA_DIR is '{folder}', but '{file}' is a file; set it to a folder")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_broken_database_file_is_told_in_one_line(
    lorabel: RunLorabel, tmp_path: Path, command: tuple[str, ...]
) -> None:
    (tmp_path / "broken.db").write_bytes(b"no database" * 1000)
    handler = signal.getsignal(signal.SIGTERM)  # `up` sets its own
    result = lorabel(*command, DATABASE_URL=f"sqlite:///{tmp_path}/broken.db", PORT=str(free_port()))
    signal.signal(signal.SIGTERM, handler)
    assert_is_one_line(result, "broken.db cannot be used: file is not a database; repair it, or restore a copy")


def test_a_database_that_breaks_later_is_told_in_one_line(lorabel: RunLorabel, settings: Settings) -> None:
    """The schema can be read, and then a table cannot."""
    if settings.database_url is not None:
        pytest.skip("only a file can be broken from here")
    file = settings.data_dir / "lorabel.db"
    with sqlite3.connect(file) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        page = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'project'").fetchone()[0]
        size = connection.execute("PRAGMA page_size").fetchone()[0]
    with file.open("r+b") as content:
        content.seek((page - 1) * size)
        content.write(b"\xff" * size)
    assert_is_one_line(lorabel("status"), "the database cannot be used: database disk image is malformed")


@pytest.mark.parametrize(
    "url", ["nonsense", "nonsense://secret@x/y", "mysql://secret@x/y", "postgresql://secret@x:y/z"]
)
def test_a_malformed_database_url_is_told_without_its_value(lorabel: RunLorabel, url: str) -> None:
    result = lorabel("status", DATABASE_URL=url)
    assert_is_one_line(result, "DATABASE_URL is no address of a database")
    assert "secret" not in result.errors
