"""The tiny detector learns a label that words cannot say, from scenes with boxes: by LoRA, and by its head."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lorabel.contracts import MediaRef
from lorabel.database import projects
from lorabel.database.store import Store
from lorabel.database.tables import Annotation
from lorabel.demo import DETECTOR_FOLDER
from lorabel.demo.scenes import Scene, png
from lorabel.evaluation.metrics import Metrics
from lorabel.families.detector import Detector
from lorabel.problems.binding import bind
from lorabel.settings import Settings
from tests.e2e.courses import data_url
from tests.e2e.courses.boxes import COURSE, GRADE, SQUARE, boxes_of, scenes
from tests.workers.events import START
from tests.workers.test_finetune import PROJECT, train
from workers import evaluate, lora
from workers.attempt import TrainingContext
from workers.candidate import make_candidate
from workers.examples import PreparedExample, TrainingExample, TrainingPlan
from workers.services import Services

ANNOTATED, UNSEEN = 40, 30
(BINDING,) = bind(COURSE.label_config).bindings


def prepared(family: Detector, scene: Scene, number: int) -> PreparedExample:
    data = {"image": "https://example.org/scene.png"}
    question, target = BINDING.model_input(data), BINDING.target(boxes_of(scene), data)

    def fetch(_: MediaRef) -> bytes:
        return png(scene)

    example = TrainingExample((number,), number, question, target, BINDING.class_of(target), True)
    return PreparedExample(example, family.prepare(question, fetch))


def score(family: Detector, examples: list[PreparedExample]) -> Metrics:
    return evaluate.compute_metrics(BINDING, examples, evaluate.predict(family, examples, 16))


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("towers", ["text", "both"])
def test_a_label_that_words_cannot_say_is_learned_from_its_boxes(towers: str) -> None:
    settings = Settings(lora_towers=towers)
    # One that nobody has asked yet: as in a run, its first answer is given with an adapter on its layers.
    family, base = (
        Detector.load(f"local-dir:{DETECTOR_FOLDER}", torch.device("cpu"), torch.float32, settings)
        for _ in range(2)
    )
    drawn = scenes(ANNOTATED + UNSEEN, seed=77)
    examples = [prepared(family, scene, number) for number, scene in enumerate(drawn)]
    train, unseen = examples[:ANNOTATED], examples[ANNOTATED:]
    before = score(base, unseen)
    recipe = lora.Recipe.from_settings(settings, "float32")
    with lora.adapted(family, train[0].training_example.question, None, recipe) as model:
        generator = torch.Generator().manual_seed(recipe.seed)
        precomputed = lora.precompute(family, model, train, generator)
        lora.fine_tune(family, model, precomputed, recipe, lambda _: None)
        after = score(family, unseen)
    figures = [
        metrics.values["per_class"][label]["ap_50"] for label in (GRADE, SQUARE) for metrics in (before, after)
    ]
    assert figures[0] < 0.2 and figures[1] > 0.4, f"{GRADE}: AP@50 {figures[0]:.2f} -> {figures[1]:.2f}"
    assert figures[3] > figures[2] - 0.1, f"{SQUARE}: AP@50 {figures[2]:.2f} -> {figures[3]:.2f}"
    assert after.values["map_50"] > before.values["map_50"]


@pytest.mark.slow
def test_a_candidate_is_compared_with_the_head_that_answers_now(tmp_path: Path) -> None:
    """Before, it was compared with the label texts, and one that had learned little would have been better."""
    models = {"detector": f"local-dir:{DETECTOR_FOLDER}"}
    services = Services.open(Settings(data_dir=tmp_path, models=models, precision="float32", evaluate_min_tasks=5))
    family = services.family(Detector)
    examples = [with_data(scene, number) for number, scene in enumerate(scenes(20, seed=78))]
    plan = TrainingPlan(examples[:10], examples[10:], {}, {})
    recipe = replace(lora.Recipe.from_settings(services.settings, "float32"), steps=1)
    context = TrainingContext(None, lambda media: media, is_against_head=True)
    attempt = make_candidate(
        services, BINDING, family, plan, context, recipe, tmp_path / "adapter", lambda progress: None
    )
    prepared_examples = [
        PreparedExample(example, family.prepare(example.question, services.fetcher.fetch)) for example in examples
    ]
    outputs = evaluate.predict_with_head(family, prepared_examples[:10], prepared_examples[10:], 16)
    head = evaluate.compute_metrics(BINDING, prepared_examples[10:], outputs)
    texts = score(family, prepared_examples[10:])
    services.close()
    assert attempt.judgement is not None and attempt.candidate is not None and attempt.candidate.rivals_head
    live = attempt.judgement.live.values
    assert live["map_50"] == pytest.approx(head.values["map_50"], abs=0.02)
    assert live["map_50"] > texts.values["map_50"] + 0.1
    assert not attempt.judgement.is_accepted, "a single step teaches less than the head knows"


@pytest.mark.slow
def test_a_candidate_is_compared_with_a_head_also_if_none_is_fitted_yet(
    settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in the first run on annotations that were there before. Before, it was compared with the label texts."""
    models = {"detector": f"local-dir:{DETECTOR_FOLDER}"}
    changed = {"models": models, "precision": "float32", "train_steps": 1, "evaluate_min_tasks": 5}
    services = Services.open(settings.model_copy(update={**changed, "model_server_url": "http://127.0.0.1:9"}))
    monkeypatch.setattr(Services, "current", lambda: services)
    projects.upsert(store, PROJECT, label_config=COURSE.label_config)
    with store.write() as session:
        for number, scene in enumerate(scenes(30), start=1):
            data = {"image": data_url(png(scene), "image/png")}
            row = Annotation(id=number, project_id=PROJECT, task_id=number, task_data=data, result=boxes_of(scene))
            row.updated_at, row.times_applied = START, 1
            session.add(row)
    run = train(store)
    services.close()
    live = run.metrics["live"]["box"]["per_class"]
    assert live[GRADE]["ap_50"] > 0.3, f"words say nothing about {GRADE}; the head knows it: {run.decision}"
    assert run.metrics.get("in_place_of_head") == ["box"]


def with_data(scene: Scene, number: int) -> TrainingExample:
    data = {"image": data_url(png(scene), "image/png")}
    question, target = BINDING.model_input(data), BINDING.target(boxes_of(scene), data)
    return TrainingExample((number,), number, question, target, BINDING.class_of(target), True)
