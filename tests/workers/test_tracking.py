"""What TensorBoard's own reader finds after training runs."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from accelerate.tracking import TensorBoardTracker
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lorabel.database import projects, versions
from lorabel.database.store import Store
from lorabel.errors import SettingsError
from lorabel.evaluation.metrics import Metrics
from lorabel.inference import promotion
from lorabel.settings import Settings
from tests.workers.pictures import LABEL_CONFIG
from tests.workers.test_finetune import PROJECT, SOURCE, annotate, train
from workers.acceptance import Judgement
from workers.lora import Progress
from workers.services import Services
from workers.tracking import check_tracker, tracked


@pytest.fixture
def services(settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Services]:
    changed = {
        "models": {"dual_encoder": SOURCE},
        "precision": "float32",
        "model_server_url": "http://127.0.0.1:9",
        "tracker": "tensorboard",
        "lora_towers": "text",
        "train_steps": 2,
        "evaluate_min_tasks": 1,
    }
    services = Services.open(settings.model_copy(update=changed))
    monkeypatch.setattr(Services, "current", lambda: services)
    projects.upsert(store, PROJECT, label_config=LABEL_CONFIG)
    yield services
    services.close()


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """The values of each curve: (step, value)."""
    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


@pytest.mark.slow
def test_each_run_has_a_folder_of_its_own_with_loss_metrics_and_parameters(
    services: Services, store: Store
) -> None:
    """Both runs start from v0."""
    annotate(store, 1, 15)
    first = train(store)
    with store.read() as session:
        live = projects.get(session, PROJECT).live_number
    if live:
        promotion.promote(store, services.model_client, PROJECT, 0)
    annotate(store, 16, 15)
    second = train(store)
    with store.read() as session:
        parents = [versions.get(session, PROJECT, run.version_number or 0).parent for run in (first, second)]
        metrics = [versions.get(session, PROJECT, run.version_number or 0).metrics for run in (first, second)]
    assert parents == [0, 0]
    tracking = services.settings.data_dir / "tracking"
    assert sorted(folder.name for folder in tracking.iterdir()) == [f"p1.run{run.id}" for run in (first, second)]
    for run, metrics_of_run in zip((first, second), metrics, strict=True):
        curves = scalars(tracking / f"p1.run{run.id}" / "grade")
        assert [step for step, _ in curves["loss"]] == [1, 2]
        for side in ("candidate", "live"):
            for name, value in metrics_of_run[side]["grade"].items():
                if isinstance(value, int | float):
                    assert curves[f"{side}/{name}"] == [(2, pytest.approx(value))]
        assert curves["accepted"][0][1] in (0, 1)
        (parameters,) = (tracking / f"p1.run{run.id}" / "grade").glob("*/hparams.yml")
        text = parameters.read_text()
        assert "train_steps" not in text and "steps: 2\n" in text and "parent: p1.v0\n" in text
    assert [path.name for path in services.settings.data_dir.iterdir() if "next" in path.name] == []


def test_a_run_without_a_step_leaves_nothing(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, tracker="tensorboard")
    with tracked(settings, "p1.run1/label", torch.device("cpu"), {}):
        pass
    assert list(tmp_path.iterdir()) == []


def test_what_was_reported_before_an_error_is_kept(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, tracker="tensorboard")
    with (
        pytest.raises(RuntimeError, match="killed"),
        tracked(settings, "p1.run1/label", torch.device("cpu"), {"rank": 8, "base_model": "x"}) as tracker,
    ):
        tracker.report(Progress(1, 60, 0.5, 1.0))
        raise RuntimeError("killed")
    assert scalars(tmp_path / "tracking" / "p1.run1" / "label")["loss"] == [(1, 0.5)]


def test_without_a_tracker_nothing_is_written(tmp_path: Path) -> None:
    metrics = Metrics("accuracy", {"accuracy": 1.0})
    with tracked(Settings(data_dir=tmp_path), "p1.run1/label", torch.device("cpu"), {}) as tracker:
        tracker.report(Progress(1, 60, 0.5, 1.0))
        tracker.conclude(Judgement(True, "", metrics, metrics), None)
    assert list(tmp_path.iterdir()) == []


def test_a_tracker_that_is_not_installed_is_named() -> None:
    with pytest.raises(SettingsError, match=r"TRACKER=mlflow, but .* install lorabel\[tracking\]"):
        check_tracker("mlflow")


def test_a_run_that_began_is_ended_although_its_parameters_are_refused(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow refuses all later runs of a process in which one is still active."""
    ended: list[str] = []

    def refuse(tracker: TensorBoardTracker, values: object) -> None:
        raise ValueError("refused")

    monkeypatch.setattr(TensorBoardTracker, "store_init_configuration", refuse)
    monkeypatch.setattr(TensorBoardTracker, "finish", lambda tracker: ended.append(tracker.run_name))
    changed = settings.model_copy(update={"tracker": "tensorboard"})
    with tracked(changed, "p1.run1/label", torch.device("cpu"), {}) as tracker:
        tracker.report(Progress(1, 2, 0.5, 1.0))
        tracker.report(Progress(2, 2, 0.5, 0.0))
    assert ended == ["p1.run1/label"]
