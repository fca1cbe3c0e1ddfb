"""What MLflow's server and the files of Weights & Biases have after a training run."""

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from lorabel.database import projects
from lorabel.database.store import Store
from lorabel.database.tables import TrainingRun
from lorabel.settings import Settings
from tests.servers import free_port
from tests.workers.pictures import LABEL_CONFIG
from tests.workers.test_finetune import PROJECT, SOURCE, annotate, train, version_of
from tests.workers.wandb_files import records
from workers.lora import Progress
from workers.services import Services
from workers.tracking import tracked

REASON = "the extra `tracking` is not installed: make test-tracking"
mlflow = pytest.importorskip("mlflow", reason=REASON)
pytest.importorskip("wandb", reason=REASON)

SERVER = Path(__file__).parents[2] / ".venv-mlflow" / "bin" / "mlflow"
START_TIMEOUT_S = 240.0
pytestmark = pytest.mark.slow

OpenServices = Callable[[str], Services]


@pytest.fixture
def open_services(settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenServices]:
    """Open the services of a training worker with a tracker; a project has 50 annotated pictures."""
    opened: list[Services] = []

    def open_with(tracker: str) -> Services:
        changed = {
            "models": {"dual_encoder": SOURCE},
            "precision": "float32",
            "model_server_url": "http://127.0.0.1:9",
            "tracker": tracker,
            "lora_towers": "text",
            "evaluate_min_tasks": 5,
        }
        services = Services.open(settings.model_copy(update=changed))
        opened.append(services)
        monkeypatch.setattr(Services, "current", lambda: services)
        projects.upsert(store, PROJECT, label_config=LABEL_CONFIG)
        annotate(store, 1, 50)
        return services

    yield open_with
    for services in opened:
        services.close()


@pytest.fixture
def mlflow_url(tmp_path: Path) -> Iterator[str]:
    """A server of MLflow with local files. Runs are in SQLite, since it refuses its former store in files."""
    url = f"http://127.0.0.1:{free_port()}"
    command = [
        *(str(SERVER), "server", "--host", "127.0.0.1", "--port", url.rpartition(":")[2], "--workers", "1"),
        *(
            "--backend-store-uri",
            f"sqlite:///{tmp_path}/mlflow.db",
            "--artifacts-destination",
            f"{tmp_path}/artifacts",
        ),
    ]
    # Its jobs are processes that it leaves behind, and nothing here needs them.
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (tmp_path / "mlflow.log").open("w") as log:
        process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log)
    try:
        wait_until_healthy(url, process, tmp_path / "mlflow.log")
        yield url
    finally:
        process.terminate()
        process.wait(timeout=20)


def wait_until_healthy(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            if httpx.get(f"{url}/health").is_success:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    raise AssertionError(log.read_text())


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def adapter_of(services: Services, store: Store, run: TrainingRun) -> dict[str, bytes]:
    """The files of the adapter that the run made."""
    return files_of(services.adapter_folders.path(version_of(store, run).adapters["grade"]))


def test_mlflow_has_the_run_with_its_losses_its_figures_and_the_adapter(
    open_services: OpenServices, store: Store, mlflow_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_url)
    services = open_services("mlflow")
    run = train(store)
    metrics = version_of(store, run).metrics
    client = mlflow.MlflowClient(mlflow_url)
    experiment = client.get_experiment_by_name("lorabel")
    (tracked_run,) = client.search_runs([experiment.experiment_id])
    assert (tracked_run.info.run_name, tracked_run.info.status) == (f"p1.run{run.id}/grade", "FINISHED")
    assert tracked_run.data.params["parent"] == "p1.v0"
    assert tracked_run.data.params["base_model"] == SOURCE
    losses = client.get_metric_history(tracked_run.info.run_id, "loss")
    assert [point.step for point in losses] == list(range(1, (run.steps or 0) + 1))
    for side in ("candidate", "live"):
        for name, value in metrics[side]["grade"].items():
            if isinstance(value, int | float):
                assert tracked_run.data.metrics[f"{side}/{name}"] == pytest.approx(value)
    assert tracked_run.data.metrics["accepted"] == 1.0
    downloaded = Path(client.download_artifacts(tracked_run.info.run_id, "adapter", str(tmp_path)))
    assert files_of(downloaded) == adapter_of(services, store, run) != {}


def test_files_of_weights_and_biases_have_the_run_with_its_losses_its_figures_and_the_adapter(
    open_services: OpenServices, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    services = open_services("wandb")
    run = train(store)
    (path,) = (services.settings.data_dir / "tracking").glob("wandb/offline-run-*/run-*.wandb")
    by_kind: dict[str, list[Any]] = {}
    for record in records(path):
        kind = record.WhichOneof("record_type")
        by_kind.setdefault(kind, []).append(getattr(record, kind))
    assert {wandb_run.display_name for wandb_run in by_kind["run"]} == {f"p1.run{run.id}/grade"}
    config = {item.key: json.loads(item.value_json) for item in by_kind["config"][0].update}
    assert (config["parent"], config["base_model"], config["family"]) == ("p1.v0", SOURCE, "dual_encoder")
    history = [
        {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in row.item}
        for row in by_kind["history"]
    ]
    assert [row["_step"] for row in history if "loss" in row] == list(range(1, (run.steps or 0) + 1))
    for side, of_tags in version_of(store, run).metrics.items():
        if side in ("candidate", "live"):
            for name, value in of_tags["grade"].items():
                if isinstance(value, int | float):
                    assert history[-1][f"{side}/{name}"] == pytest.approx(value)
    assert history[-1]["accepted"] == 1
    artifacts = [artifact for artifact in by_kind["artifact"] if artifact.type == "adapter"]
    assert [artifact.name for artifact in artifacts] == [f"p1.run{run.id}.grade"]
    sent = {entry.path: Path(entry.local_path).read_bytes() for entry in artifacts[0].manifest.contents}
    assert sent == adapter_of(services, store, run) != {}


def test_a_tracker_that_cannot_be_reached_does_not_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    settings = Settings(data_dir=tmp_path, tracker="mlflow")
    with tracked(settings, "p1.run1/label", torch.device("cpu"), {}) as tracker:
        for step in (1, 2):
            tracker.report(Progress(step, 60, 0.5, 1.0))
    (message,) = [record.getMessage() for record in caplog.records if record.name == "workers.tracking"]
    assert message.startswith("mlflow gets no more of p1.run1/label: ")
