"""Runs on drawn scenes with masks: without clicks both models of the pipeline learn, with clicks the segmenter."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from peft import load_peft_weights

from lorabel.database import projects, training_runs, versions
from lorabel.database.store import Store
from lorabel.database.tables import Annotation, ModelVersion, RunState, TrainingRun
from lorabel.demo import DETECTOR_FOLDER, SEGMENTER_FOLDER
from lorabel.settings import Settings
from tests.e2e.courses import clicks
from tests.e2e.courses.boxes import GRADE
from tests.e2e.courses.masks import COURSE
from tests.workers.events import START
from workers import finetune
from workers.services import Services

pytestmark = pytest.mark.slow

PROJECT = 1
DETECTOR, SEGMENTER = f"local-dir:{DETECTOR_FOLDER}", f"local-dir:{SEGMENTER_FOLDER}"
BROKEN = {
    "from_name": "mask",
    "to_name": "image",
    "type": "brushlabels",
    "original_width": 10,
    "original_height": 10,
    "value": {"format": "rle", "rle": [0, 0, 0, 4], "brushlabels": ["grade A"]},
}


@pytest.fixture
def train_steps() -> int | None:
    """None: as by default."""
    return None


@pytest.fixture
def services(
    settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch, train_steps: int | None
) -> Iterator[Services]:
    changed = {
        "train_steps": train_steps or settings.train_steps,
        "models": {"detector": DETECTOR, "segmenter": SEGMENTER},
        "precision": "float32",
        "model_server_url": "http://127.0.0.1:9",
        "evaluate_min_tasks": 4,
    }
    services = Services.open(settings.model_copy(update=changed))
    monkeypatch.setattr(Services, "current", lambda: services)
    yield services
    services.close()


def annotate(store: Store, tasks: Any) -> None:
    with store.write() as session:
        for task_id, (data, result) in enumerate(tasks, start=1):
            session.add(
                Annotation(
                    id=task_id,
                    project_id=PROJECT,
                    task_id=task_id,
                    task_data=data,
                    result=result,
                    updated_at=START + timedelta(seconds=task_id),
                    times_applied=1,
                )
            )


def train(store: Store) -> tuple[TrainingRun, ModelVersion]:
    run_id = training_runs.request(store, PROJECT, "test").id
    finetune.finetune(run_id)
    with store.read() as session:
        run = training_runs.get(session, PROJECT, run_id)
        assert run.state == RunState.FINISHED, run.error
        assert run.version_number is not None, run.decision
        return run, versions.get(session, PROJECT, run.version_number)


@pytest.mark.long
def test_a_run_teaches_both_models_and_leaves_out_what_cannot_be_read(services: Services, store: Store) -> None:
    projects.upsert(store, PROJECT, label_config=COURSE.label_config)
    tasks = [*COURSE.tasks[:40]]
    data, result = tasks[0]
    tasks[0] = data, [*result, BROKEN]
    tasks[1] = tasks[1][0], [BROKEN]
    annotate(store, tasks)
    run, version = train(store)
    candidate, live = (version.metrics[side]["mask"] for side in ("candidate", "live"))
    assert candidate["map"] > live["map"], run.decision
    # Live is a head that was fitted on the same masks. Texts alone find hardly anything of grade A.
    assert live["per_class"][GRADE]["ap_50"] > 0.5, run.decision
    assert candidate["mean_iou"] > 0.6, run.decision
    assert version.metrics["in_place_of_head"] == ["mask"]
    assert version.base_models == {"mask": f"{DETECTOR} + {SEGMENTER}"}
    folder = services.adapter_folders.path(version.adapters["mask"])
    for part in ("detector", "segmenter"):
        weights = load_peft_weights(folder / part, device="cpu")
        assert any(weight.abs().max() > 0 for name, weight in weights.items() if "lora_B" in name), part
    # Task 1 is learned without the region; of task 2 nothing is left.
    reason = "the RLE has 4 values; a picture of 10 x 10 pixels has 400"
    assert run.metrics["left_out"]["mask"] == {"1": reason}
    assert run.metrics["skipped"]["mask"] == {"2": reason}
    assert 2 not in version.trained_on


@pytest.mark.long
def test_masks_of_clicks_get_nearer_to_those_that_were_submitted(services: Services, store: Store) -> None:
    projects.upsert(store, PROJECT, label_config=clicks.COURSE.label_config)
    annotate(store, COURSE.tasks[:40])
    run, version = train(store)
    candidate, live = (version.metrics[side]["click"]["mean_iou"] for side in ("candidate", "live"))
    assert candidate > live, run.decision


@pytest.mark.parametrize("train_steps", [3])
def test_clicks_and_masks_by_labels_are_each_learned_from_the_same_masks(services: Services, store: Store) -> None:
    projects.upsert(store, PROJECT, label_config=clicks.COURSE.label_config)
    annotate(store, COURSE.tasks[:12])
    run, version = train(store)
    assert set(version.metrics["candidate"]) == {"click", "mask"}
    assert version.metrics["families"].keys() <= {"click", "mask"}
    figures = version.metrics["candidate"]["click"]
    assert 0 < figures["mean_iou"] <= 1 and figures["tasks"] > 0, run.decision
