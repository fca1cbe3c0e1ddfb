"""Training runs from annotations to a live version, with the demo model and drawn pictures."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

from lorabel.database import project_heads, projects, training_runs, versions
from lorabel.database.store import Store
from lorabel.database.tables import Annotation, ModelVersion, ProjectHead, RunState, TrainingRun, VersionState
from lorabel.demo import MODEL_FOLDER
from lorabel.families.cache import FeatureCache
from lorabel.families.dual_encoder import DualEncoder
from lorabel.families.encoders.attention import separate_attention
from lorabel.inference import promotion
from lorabel.inference.model_client import ModelClient
from lorabel.settings import Settings
from model_server.adapters import AdapterBank
from tests.backend.fake_model_server import FakeModelServer
from tests.questions import about_picture
from tests.workers.events import START, all_outcomes
from tests.workers.pictures import GRADES, LABEL_CONFIG, data_url, pictures, result
from workers import finetune
from workers.examples import is_held_out
from workers.services import Services

PROJECT = 1
SOURCE = f"local-dir:{MODEL_FOLDER}"

pytestmark = pytest.mark.slow


@pytest.fixture
def demo_settings(settings: Settings) -> Settings:
    return settings.model_copy(
        update={
            "models": {"dual_encoder": SOURCE},
            "precision": "float32",
            "model_server_url": "http://127.0.0.1:9",
            "evaluate_min_tasks": 5,
            "lora_towers": "text",
        }
    )


@pytest.fixture
def services(demo_settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Services]:
    services = Services.open(demo_settings)
    monkeypatch.setattr(Services, "current", lambda: services)
    projects.upsert(store, PROJECT, label_config=LABEL_CONFIG)
    yield services
    services.close()


def annotate(store: Store, first_id: int, count: int, grade_of: Any = None) -> None:
    with store.write() as session:
        for i, picture in enumerate(pictures(first_id + count)[first_id:], start=first_id):
            grade = GRADES[picture.fill] if grade_of is None else grade_of(i, picture)
            session.add(
                Annotation(
                    id=i,
                    project_id=PROJECT,
                    task_id=i,
                    task_data={"image": data_url(picture)},
                    result=result(grade),
                    updated_at=START + timedelta(seconds=i),
                    times_applied=1,
                )
            )


def train(store: Store, reason: str = "test") -> TrainingRun:
    run = training_runs.request(store, PROJECT, reason)
    finetune.finetune(run.id)
    with store.read() as session:
        return training_runs.get(session, PROJECT, run.id)


def version_of(store: Store, run: TrainingRun) -> ModelVersion:
    assert run.version_number is not None, run.error or run.decision
    with store.read() as session:
        return versions.get(session, PROJECT, run.version_number)


def test_a_run_learns_what_labels_mean_and_its_version_becomes_live(services: Services, store: Store) -> None:
    annotate(store, 1, 50)
    put_head(services, b"what answers now", annotation_ids=[1, 2])
    run = train(store)
    assert run.state == RunState.FINISHED and run.losses["grade"][-1] == [run.steps, run.loss]
    version = version_of(store, run)
    folder = services.adapter_folders.path(version.adapters["grade"])
    assert (folder / "head.safetensors").read_bytes() == b"what answers now"
    assert version.metrics["heads"]["grade"]["annotations"] == 2 and "annotation_ids" not in str(run.metrics)
    assert str(run.decision).endswith("compared without heads, which answer for grade")
    candidate, live = (version.metrics[side]["grade"] for side in ("candidate", "live"))
    assert candidate["tasks"] == sum(is_held_out(i, 20) for i in range(1, 51)) >= 5
    assert candidate["accuracy"] >= 0.8 > live["accuracy"]
    outcomes = all_outcomes(store)
    assert {each.task_id for each in outcomes} == {i for i in range(1, 51) if is_held_out(i, 20)}
    right, right_live = sum(each.value or 0 for each in outcomes), sum(each.live_value or 0 for each in outcomes)
    assert (right / len(outcomes), right_live / len(outcomes)) == (candidate["accuracy"], live["accuracy"])
    assert version.state == VersionState.LIVE
    assert version.trained_on == [i for i in range(1, 51) if not is_held_out(i, 20)]
    assert (version.base_models, version.metrics["primary"]) == ({"grade": SOURCE}, {"grade": "accuracy"})
    calibration = version.metrics["calibration"]["grade"]
    assert (calibration["tasks"], calibration["reason"]) == (candidate["tasks"], "")
    assert versions.temperatures(version) == {"grade": calibration["temperature"]} != {"grade": 1.0}
    with store.read() as session:
        assert projects.get(session, PROJECT).live_version == "p1.v1"
        assert {row.run_id for row in session.query(Annotation)} == {run.id}
    check_plain_peft_gives_the_same_logits(services, version.adapters["grade"])
    check_a_worse_candidate_is_rejected(services, store)


def put_head(services: Services, file: bytes, annotation_ids: list[int]) -> None:
    """Have a head answer for the control tag."""

    def write_into(folder: Path) -> None:
        (folder / "grade").mkdir()
        (folder / "grade" / "head.safetensors").write_bytes(file)

    services.adapter_folders.write("p1.h1", write_into)
    head = ProjectHead(
        project_id=PROJECT,
        from_name="grade",
        folder="p1.h1",
        labels="",
        digest="",
        annotation_ids=annotation_ids,
        fitted_at=START,
    )
    with services.store.write() as session:
        project = projects.get(session, PROJECT)
        project_heads.replace(session, project, {"grade": head}, 1)
        project.head_config = project.label_config


def check_plain_peft_gives_the_same_logits(services: Services, name: str) -> None:
    """Any other program that uses PEFT can load the adapter that a run wrote."""
    import open_clip

    example = pictures(1, seed=77)[0].draw(96)
    texts = tuple(GRADES.values())
    module, _, transform = open_clip.create_model_and_transforms(SOURCE)
    plain = PeftModel.from_pretrained(separate_attention(module).eval(), services.adapter_folders.path(name))
    with torch.inference_mode():
        image_logits, _ = plain.get_logits(transform(example)[None], open_clip.get_tokenizer(SOURCE)(list(texts)))
    family = DualEncoder.load(SOURCE, torch.device("cpu"), torch.float32, services.settings)
    bank = AdapterBank(family, services.adapter_folders, 10**9)
    question = about_picture(data_url(pictures(1, seed=77)[0]), texts)
    (output,) = family.predict([family.prepare(question, services.fetcher.fetch)], [name], bank, FeatureCache({}))
    torch.testing.assert_close(
        torch.tensor(output.probabilities), image_logits[0].softmax(-1), rtol=1e-3, atol=1e-4
    )


def check_a_worse_candidate_is_rejected(services: Services, store: Store) -> None:
    """The new annotations contradict the old ones, but only on tasks that are not held out."""
    wrong = {"solid": "Grade C", "striped": "Grade A", "outlined": "Grade B"}
    annotate(store, 100, 60, lambda i, p: GRADES[p.fill] if is_held_out(i, 20) else wrong[p.fill])
    run = train(store)
    version = version_of(store, run)
    assert version.state == VersionState.REJECTED
    assert "is worse than live's" in str(run.decision)
    assert version.metrics["candidate"]["grade"]["accuracy"] < version.metrics["live"]["grade"]["accuracy"]
    with store.read() as session:
        assert projects.get(session, PROJECT).live_version == "p1.v1"
        assert {row.run_id for row in session.query(Annotation) if row.id >= 100} == {None}, "they are new"
    assert run.metrics is not None and run.metrics["still_new"] == 60
    assert training_runs.request_due(store, services.settings) == [], "not at once"
    promotion.promote(store, services.model_client, PROJECT, version.number)
    promotion.rollback(store, services.model_client, PROJECT)
    with store.read() as session:
        assert projects.get(session, PROJECT).live_version == "p1.v1"


def test_each_of_several_labels_is_learned(services: Services, store: Store) -> None:
    """`Code 1` means solid, `Code 2` large, `Code 3` striped; a picture may have any number of them."""
    codes = "".join(f'<Choice value="Code {i}"/>' for i in (1, 2, 3))
    choices = f'<Choices name="grade" toName="image" choice="multiple">{codes}</Choices>'
    projects.upsert(store, PROJECT, label_config=f'<View><Image name="image" value="$image"/>{choices}</View>')
    annotate(store, 1, 120)
    with store.write() as session:
        for row, picture in zip(session.query(Annotation).order_by(Annotation.id), pictures(121)[1:], strict=True):
            applies = {
                "Code 1": picture.fill == "solid",
                "Code 2": picture.size == "large",
                "Code 3": picture.fill == "striped",
            }
            codes_of_picture = [code for code, is_true in applies.items() if is_true]
            row.result = [result("")[0] | {"value": {"choices": codes_of_picture}}] if codes_of_picture else []
    metrics = version_of(store, train(store)).metrics
    candidate, live = (metrics[side]["grade"] for side in ("candidate", "live"))
    assert candidate["accuracy"] >= 0.8 > live["accuracy"]
    assert candidate["macro_f1"] >= 0.85


def test_a_promotion_during_a_run_is_not_undone(
    services: Services, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    annotate(store, 1, 20)
    conclude = finetune._conclude

    def promote_then_conclude(*arguments: Any) -> None:
        columns: dict[str, Any] = {"base_models": {}, "adapters": {}, "metrics": {}, "trained_on": []}
        with store.write() as session:
            session.add(ModelVersion(project_id=PROJECT, number=7, parent=0, state=VersionState.LIVE, **columns))
            projects.get(session, PROJECT).live_number = 7
        conclude(*arguments)

    monkeypatch.setattr(finetune, "_conclude", promote_then_conclude)
    run = train(store)
    version = version_of(store, run)
    assert (version.number, version.parent, version.state) == (8, 0, VersionState.REJECTED)
    assert "p1.v7 became live while this was made from v0" in str(run.decision)
    with store.read() as session:
        assert projects.get(session, PROJECT).live_version == "p1.v7"


def test_the_number_of_a_folder_that_a_killed_run_left_is_not_used_again(services: Services, store: Store) -> None:
    (services.settings.adapters_dir / "p1.v4").mkdir(parents=True)
    annotate(store, 1, 20)
    assert train(store).version_number == 5


def test_an_annotation_that_is_changed_during_a_run_stays_new(
    services: Services, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    annotate(store, 1, 20)
    conclude = finetune._conclude

    def change_then_conclude(*arguments: Any) -> None:
        with store.write() as session:
            session.get_one(Annotation, (PROJECT, 3)).updated_at = START + timedelta(days=1)
        conclude(*arguments)

    monkeypatch.setattr(finetune, "_conclude", change_then_conclude)
    run = train(store)
    with store.read() as session:
        run_ids = {row.id: row.run_id for row in session.query(Annotation)}
    assert run_ids == {i: None if i == 3 else run.id for i in range(1, 21)}


def test_a_run_without_new_annotations_ends_with_a_reason(
    services: Services, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finetune, "SECOND_LOOK_AFTER_S", 0.0)
    run = train(store)
    assert run.state == RunState.FINISHED
    assert "nothing to learn from" in str(run.decision)
    assert run.version_number is None


def test_a_run_with_nothing_new_and_nothing_held_out_is_scored_on_what_it_learned(
    services: Services, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing_held_out = services.settings.model_copy(update={"held_out_percent": 0})
    monkeypatch.setattr(Services, "current", lambda: replace(services, settings=nothing_held_out))
    annotate(store, 1, 8)
    train(store)
    second_run = train(store)
    assert (second_run.state, second_run.error) == (RunState.FINISHED, None)


def test_a_label_config_that_is_not_served_fails_the_run_with_a_reason(services: Services, store: Store) -> None:
    projects.upsert(store, PROJECT, label_config='<View><Text name="t" value="$t"/></View>')
    annotate(store, 1, 3)
    run = train(store)
    assert run.state == RunState.FAILED
    assert "no control tag of project 1's label config is served" in str(run.error)


def test_a_killed_run_leaves_no_version_and_is_finished_by_the_next_worker(
    services: Services, store: Store, demo_settings: Settings
) -> None:
    annotate(store, 1, 20)
    run = training_runs.request(store, PROJECT, "test")
    environment = {
        **os.environ,
        "DATA_DIR": str(demo_settings.data_dir),
        "DATABASE_URL": demo_settings.database,
        "MODEL_DUAL_ENCODER": SOURCE,
        "TRAIN_STEPS": "100000",
        "TRAIN_PATIENCE": "100000",
        "LORA_TOWERS": "text",
    }
    job = f"from workers import finetune; finetune.finetune({run.id})"
    worker = subprocess.Popen([sys.executable, "-c", job], env=environment, start_new_session=True)
    deadline = time.monotonic() + 120
    while _reload(store, run).step < 1 and time.monotonic() < deadline:
        assert worker.poll() is None
        time.sleep(0.2)
    os.killpg(worker.pid, signal.SIGKILL)
    worker.wait()
    assert _reload(store, run).state == RunState.RUNNING
    training_runs.requeue_killed(store, demo_settings.model_copy(update={"run_lease_seconds": 0.0}))
    with store.read() as session:
        assert versions.list_of(session, PROJECT) == []
        assert projects.get(session, PROJECT).live_version == "p1.v0"
    assert not list(Path(demo_settings.adapters_dir).glob("p1.*"))
    finetune.finetune(run.id)
    ended = _reload(store, run)
    assert (ended.state, ended.attempt, ended.version_number) == (RunState.FINISHED, 2, 1)


def _reload(store: Store, run: TrainingRun) -> TrainingRun:
    with store.read() as session:
        return training_runs.get(session, PROJECT, run.id)


def change(store: Store, annotation_id: int, **columns: Any) -> None:
    with store.write() as session:
        row = session.get_one(Annotation, (PROJECT, annotation_id))
        for name, value in columns.items():
            setattr(row, name, value)


def test_odd_annotations_and_broken_files_are_skipped_and_named_and_the_others_are_learned(
    services: Services, store: Store
) -> None:
    annotate(store, 1, 20)
    no_value, no_choices, broken, forbidden = [i for i in range(1, 21) if not is_held_out(i, 20)][:4]
    region = result("Grade A")[0]
    change(store, no_value, result=[{**region, "value": None}])
    change(store, no_choices, result=[{**region, "value": {"choices": None}}])
    change(store, broken, task_data={"image": data_url(pictures(1)[0])[:200] + "AAAA"})
    change(store, forbidden, task_data={"image": "http://127.0.0.1:9/x.png"})
    run = train(store)
    assert run.state == RunState.FINISHED
    assert run.metrics is not None
    skipped = run.metrics["skipped"]["grade"]
    assert sorted(map(int, skipped)) == [no_value, no_choices, broken, forbidden]
    assert "expected an object" in skipped[str(no_value)]
    assert version_of(store, run).state == VersionState.LIVE
    with store.read() as session:
        new = sorted(row.id for row in session.query(Annotation) if row.run_id is None)
    assert new == [no_value, no_choices, broken, forbidden], "only what was learned is old"
    assert run.metrics["still_new"] == 4
    assert training_runs.request_due(store, services.settings) == [], "they are not tried again at once"


def test_annotations_whose_media_cannot_be_downloaded_stay_new_and_are_learned_when_they_can(
    services: Services, store: Store
) -> None:
    annotate(store, 1, 20)
    with store.write() as session:
        data = {row.id: row.task_data for row in session.query(Annotation)}
        for row in session.query(Annotation):
            row.task_data = {"image": "http://127.0.0.1:9/x.png"}
    run = train(store, "20 new annotations")
    assert "nothing to learn from" in str(run.decision)
    assert run.metrics is not None and run.metrics["still_new"] == 20
    assert "not public" in next(iter(run.metrics["skipped"]["grade"].values()))
    assert training_runs.request_due(store, services.settings) == []
    for annotation_id, task_data in data.items():
        change(store, annotation_id, task_data=task_data)
    assert version_of(store, train(store, "20 new annotations")).state == VersionState.LIVE


def test_a_run_for_new_annotations_that_are_all_unusable_makes_no_version_of_old_ones(
    services: Services, store: Store
) -> None:
    annotate(store, 1, 20)
    train(store)
    trained, *_ = (i for i in range(21, 40) if not is_held_out(i, 20))
    annotate(store, trained, 1, lambda *_: "Grade Z")
    automatic_run = train(store, "1 new annotations, the newest some time ago")
    assert (automatic_run.version_number, automatic_run.state) == (None, RunState.FINISHED)
    assert automatic_run.metrics is not None and list(automatic_run.metrics["skipped"]["grade"]) == [str(trained)]
    assert train(store, "a person's").version_number == 2


@pytest.mark.parametrize("status", [404, 409])
def test_a_version_whose_adapters_the_model_server_refuses_is_rejected_with_its_reason(
    services: Services, store: Store, model_server: FakeModelServer, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    model_client = ModelClient(services.settings.model_copy(update={"model_server_url": model_server.url}))
    monkeypatch.setattr(Services, "current", lambda: replace(services, model_client=model_client))
    model_server.status = status
    annotate(store, 1, 20)
    run = train(store)
    assert model_server.preloaded == ["p1.v1/grade"]
    assert version_of(store, run).state == VersionState.REJECTED
    assert f"model server answered {status} to /v1/preload" in str(run.decision)
    with store.read() as session:
        assert projects.get(session, PROJECT).live_version == "p1.v0"
        assert {row.run_id for row in session.query(Annotation)} == {None}
    model_server.status = 500
    assert version_of(store, train(store)).state == VersionState.LIVE, "500 says nothing about the adapter"
    model_client.close()
