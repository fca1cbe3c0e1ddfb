"""The command as people run it, in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lorabel import projects, runs
from lorabel.problems.image_classification import ImageClassification
from lorabel.settings import Settings
from lorabel.store import Store
from lorabel.tables import ModelVersion, VersionState

PROGRAM = Path(sys.prefix) / "bin" / "lorabel"


def lorabel(settings: Settings, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    own = {
        "DATA_DIR": str(settings.data_dir),
        "DATABASE_URL": settings.database,
        "REDIS_URL": f"unix://{settings.data_dir}/none.sock",
        "MODEL_SERVER_URL": "http://127.0.0.1:9",
        "COLUMNS": "200",
        **variables,
    }
    return subprocess.run(
        [str(PROGRAM), *arguments], env={**os.environ, **own}, capture_output=True, text=True, check=False
    )


@pytest.fixture(autouse=True)
def project_with_a_version(store: Store) -> None:
    projects.remember(store, 1, label_config=ImageClassification.SAMPLE.label_config)
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
    claimed = runs.claim(store, 1)
    assert claimed is not None
    runs.report(store, claimed, step=7, steps=60, loss=0.5, seconds_left=12.0)
    shown = lorabel(settings, "status").stdout
    for part in ("p1.v0", "running", "7 of 60", "0.500", "12", "lorabel train"):
        assert part in shown


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
