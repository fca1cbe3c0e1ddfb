"""The command as people run it, in a process of its own."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lorabel.database import bulk_runs, leases, projects, training_runs
from lorabel.database.store import Store
from lorabel.database.tables import BulkRun, ModelVersion, RunState, VersionState
from lorabel.problems.image_classification import ImageClassification
from lorabel.settings import Settings
from tests.backend import requests
from tests.backend.fake_model_server import FakeModelServer
from tests.lorabel.fake_label_studio import PERSONAL_TOKEN, FakeLabelStudio, serve
from tests.workers.conftest import add_tasks

PROGRAM = Path(sys.prefix) / "bin" / "lorabel"


def environment(settings: Settings, **variables: str) -> dict[str, str]:
    own = {
        "DATA_DIR": str(settings.data_dir),
        "DATABASE_URL": settings.database,
        "REDIS_URL": f"unix://{settings.data_dir}/none.sock",
        "MODEL_SERVER_URL": "http://127.0.0.1:9",
        "COLUMNS": "200",
        **variables,
    }
    return {**os.environ, **own}


def lorabel(settings: Settings, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [str(PROGRAM), *arguments]
    return subprocess.run(
        command, env=environment(settings, **variables), capture_output=True, text=True, check=False
    )


@pytest.fixture(autouse=True)
def project_with_a_version(store: Store) -> None:
    projects.remember(store, 1, label_config=ImageClassification.SAMPLES[0].label_config)
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


@pytest.mark.slow
def test_versions_can_be_listed_promoted_and_rolled_back(settings: Settings) -> None:
    listed = lorabel(settings, "versions", "1")
    assert listed.returncode == 0, listed.stderr
    assert "p1.v1" in listed.stdout and "accuracy 0.700 is worse" in listed.stdout
    assert "p1.v1 is live" in lorabel(settings, "promote", "1", "v1").stdout
    assert "p1.v0 is live" in lorabel(settings, "rollback", "1").stdout
    again = lorabel(settings, "rollback", "1")
    assert again.returncode == 1
    assert "error: project 1 runs on the base models: there is nothing to go back to" in again.stderr
    assert "Traceback" not in again.stderr


def test_a_run_is_queued_though_redis_is_away_and_status_shows_its_progress(
    settings: Settings, store: Store
) -> None:
    asked = lorabel(settings, "train", "1")
    assert "run 1 of project 1 is queued" in asked.stdout
    assert "the run starts with the next sweep" in asked.stdout
    claimed = training_runs.claim(store, 1)
    assert claimed is not None
    training_runs.report(store, claimed, step=7, steps=60, loss=0.5, seconds_left=12.0)
    shown = lorabel(settings, "status").stdout
    for part in ("p1.v0", "running", "7 of 60", "0.500", "12", "lorabel train"):
        assert part in shown


@pytest.mark.slow
def test_a_bulk_run_is_queued_and_cancelled(settings: Settings, store: Store) -> None:
    refused = lorabel(settings, "preannotate", "1")
    assert refused.returncode == 1
    assert "connect it with `lorabel connect`" in refused.stderr
    projects.remember(store, 1, label_studio_url="http://label-studio.test", api_key="token")
    asked = lorabel(settings, "preannotate", "1", "--tasks", "3, 1", "--detach")
    assert "bulk run 1 of project 1 is queued" in asked.stdout
    with store.read() as session:
        assert bulk_runs.get(session, 1, 1).task_ids == [1, 3]
    cancelled = lorabel(settings, "preannotate", "1", "--cancel")
    assert "bulk run 1 cancelled: 0 tasks predicted, 0 had a prediction already, 0 failed" in cancelled.stdout
    assert "has no bulk run" in lorabel(settings, "preannotate", "1", "--cancel").stdout
    wrong = lorabel(settings, "preannotate", "1", "--tasks", "one")
    assert wrong.returncode == 2
    assert "'one' are no task ids" in wrong.stderr


@pytest.mark.slow
def test_an_order_is_queued_by_its_strategy(settings: Settings, store: Store) -> None:
    projects.remember(store, 1, label_studio_url="http://label-studio.test", api_key="token")
    asked = lorabel(settings, "order", "1", "--strategy", "margin", "--detach")
    assert "bulk run 1 of project 1 is queued" in asked.stdout
    with store.read() as session:
        assert bulk_runs.get(session, 1, 1).strategy == "margin"
    assert "'alphabet' is not one of" in lorabel(settings, "order", "1", "--strategy", "alphabet").stderr


def test_ctrl_c_leaves_a_bulk_run_alone_and_says_so(settings: Settings, store: Store) -> None:
    projects.remember(store, 1, label_studio_url="http://label-studio.test", api_key="token")
    # Who started us may have had Ctrl-C ignored, as shells do for what runs in the background.
    argv = ["env", "--default-signal=INT", str(PROGRAM), "preannotate", "1"]
    with subprocess.Popen(argv, env=environment(settings), stdout=subprocess.PIPE, text=True) as command:
        try:
            while not (queued := _bulk_runs(store)):
                time.sleep(0.1)
            time.sleep(1.0)
            command.send_signal(signal.SIGINT)
            said, _ = command.communicate(timeout=30)
        finally:
            command.kill()
    assert command.returncode == 130
    assert "bulk run 1 goes on; `lorabel preannotate 1 --cancel` ends it" in said
    assert [run.state for run in _bulk_runs(store)] == [queued[0].state]


@pytest.mark.slow
def test_the_command_follows_a_bulk_run_to_its_end_and_reports(settings: Settings, store: Store) -> None:
    projects.remember(store, 1, label_studio_url="http://label-studio.test", api_key="token")
    for state, status in ((RunState.FINISHED, 0), (RunState.FAILED, 1)):
        command = subprocess.Popen(
            [str(PROGRAM), "preannotate", "1", "--all"],
            env=environment(settings),
            stdout=subprocess.PIPE,
            text=True,
        )
        while not (waiting := [run for run in _bulk_runs(store) if run.state == RunState.QUEUED]):
            time.sleep(0.1)
        claimed = leases.claim(store, BulkRun, waiting[0].id)
        assert claimed is not None
        failures = [{"task_id": 7, "reason": "403"}]
        with store.write() as session:
            leases.finish(session, claimed, state, done=5, skipped=2, failed=1, failures=failures, total=8)
        said, _ = command.communicate(timeout=30)
        assert command.returncode == status
        assert f"{state}: 5 tasks predicted, 2 had a prediction already, 1 failed" in said
        assert "task 7: 403" in said


def _bulk_runs(store: Store) -> list[BulkRun]:
    with store.read() as session:
        return bulk_runs.list_of(session, 1)


def test_what_does_not_exist_is_an_error_of_one_line(settings: Settings) -> None:
    wrong = lorabel(settings, "train", "99")
    assert wrong.returncode == 1
    assert wrong.stderr.startswith("error: project 99 is not known here")


def test_wrong_settings_are_named_and_no_secret_is_printed(settings: Settings) -> None:
    secrets = {"LABEL_STUDIO_API_KEY": "hunter2", "BASIC_AUTH_PASS": "hunter2"}
    half = lorabel(settings, "status", **secrets)
    assert half.returncode == 1
    assert "BASIC_AUTH_USER and BASIC_AUTH_PASS belong together" in half.stderr
    port = lorabel(settings, "status", PORT="many", **secrets)
    assert "PORT: Input should be a valid integer" in port.stderr
    assert "hunter2" not in half.stderr + half.stdout + port.stderr + port.stdout


def test_search_prints_tasks_with_their_likeness_and_links(
    settings: Settings, store: Store, model_server: FakeModelServer
) -> None:
    fake = FakeLabelStudio()
    add_tasks(fake, "blue-star", "red-star", "red-circle")
    own = {"MODEL_SERVER_URL": model_server.url}
    with serve(fake):
        projects.remember(
            store, 1, label_config=requests.CONFIG, label_studio_url=fake.url, api_key=PERSONAL_TOKEN
        )
        indexed = lorabel(settings, "index", "1", **own)
        assert "3 tasks were embedded, 3 of project 1 are" in indexed.stdout, indexed.stderr
        found = lorabel(settings, "search", "1", "a red star", "--limit", "2", **own)
        assert found.returncode == 0, found.stderr
        lines = [line for line in found.stdout.splitlines() if fake.url in line]
        assert ["1.000" in lines[0], "2" in lines[0], len(lines)] == [True, True, 2]
        assert f"{fake.url}/projects/1/data?task=2" in lines[0]
        alike = lorabel(settings, "search", "1", "--task", "3", "--limit", "1", **own)
        assert f"{fake.url}/projects/1/data?task=2" in alike.stdout
    assert lorabel(settings, "search", "1").returncode == 2
