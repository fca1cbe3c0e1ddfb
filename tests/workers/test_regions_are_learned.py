"""What is in a region is learned from drawn scenes: by a head at once, and by LoRA. Grades depend on a hole."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
import torch

from lorabel.contracts import MediaRef
from lorabel.database import projects
from lorabel.database.store import Store
from lorabel.database.tables import Annotation
from lorabel.demo import MODEL_FOLDER
from lorabel.demo.scenes import Scene, png
from lorabel.families.dual_encoder import DualEncoder
from lorabel.families.encoders.heads.fit import fit_head
from lorabel.families.encoders.heads.head_answers import answer_with_head
from lorabel.labeling.image_regions import image_region
from lorabel.problems.base import Problem
from lorabel.problems.binding import bind
from lorabel.settings import Settings
from tests.e2e.courses import data_url
from tests.e2e.courses.regions import LABEL_CONFIG, result_of, scenes
from tests.workers.events import START
from tests.workers.test_beside_head import Open
from tests.workers.test_beside_head import open_services as open_services
from tests.workers.test_finetune import PROJECT, train
from workers import evaluate, lora
from workers.beside_head import to_fit
from workers.examples import PreparedExample, TrainingExample

pytestmark = pytest.mark.slow

ANNOTATED, UNSEEN = 10, 25
GRADES = next(binding for binding in bind(LABEL_CONFIG).bindings if binding.from_name == "grade")
REDNESS = next(
    binding
    for binding in bind(
        '<View><Image name="image" value="$image"/><Rectangle name="box" toName="image"/>'
        '<Number name="red" toName="image" perRegion="true" min="0" max="1" step="0.01"/></View>'
    ).bindings
    if binding.from_name == "red"
)


def redness_of(scene: Scene) -> list[dict[str, Any]]:
    """A scene's boxes without labels, and as the number of each 1 if the thing is red, else 0."""
    return [
        {"id": f"thing{number}", **image_region(name, "image", kind, thing.corners, scene.size, value)}
        for number, thing in enumerate(scene.things)
        for name, kind, value in (
            ("box", "rectangle", {}),
            ("red", "number", {"number": float(thing.colour == "red")}),
        )
    ]


def prepared(
    family: DualEncoder, binding: Problem, scene: Scene, result: list[dict[str, Any]], number: int
) -> PreparedExample:
    data = {"image": "https://example.org/scene.png"}
    target = binding.target(result, data)
    question = binding.asked_for(binding.model_input(data), target)

    def fetch(_: MediaRef) -> bytes:
        return png(scene)

    example = TrainingExample((number,), number, question, target, binding.class_of(target), True)
    return PreparedExample(example, family.prepare(question, fetch))


@pytest.fixture(scope="module")
def family() -> DualEncoder:
    return DualEncoder.load(f"local-dir:{MODEL_FOLDER}", torch.device("cpu"), torch.float32, Settings())


def answered_by_head(family: DualEncoder, examples: Sequence[PreparedExample]) -> list[Any]:
    """The answers to the unseen examples, by a head that is fitted on the annotated ones."""
    features = evaluate.features(family, examples, 16)
    to_learn = to_fit(examples, features)
    head = fit_head(to_learn[:ANNOTATED], features[0].space)
    assert head is not None
    return [answer_with_head(head, one.question, one.features, one.logits) for one in to_learn[ANNOTATED:]]


def test_a_head_learns_from_ten_pictures_what_no_word_says(family: DualEncoder) -> None:
    drawn = scenes(ANNOTATED + UNSEEN)
    examples = [prepared(family, GRADES, scene, result_of(scene), n) for n, scene in enumerate(drawn)]
    unseen = examples[ANNOTATED:]
    before = evaluate.compute_metrics(GRADES, unseen, evaluate.predict(family, unseen, 16)).values
    after = evaluate.compute_metrics(GRADES, unseen, answered_by_head(family, examples)).values
    assert before["accuracy"] < 0.65 and after["accuracy"] > 0.85, f"{before['accuracy']} -> {after['accuracy']}"


def test_a_head_learns_a_number_for_each_region(family: DualEncoder) -> None:
    drawn = scenes(ANNOTATED + UNSEEN)
    examples = [prepared(family, REDNESS, scene, redness_of(scene), n) for n, scene in enumerate(drawn)]
    after = evaluate.compute_metrics(REDNESS, examples[ANNOTATED:], answered_by_head(family, examples)).values
    assert after["spearman"] > 0.7, after


def test_lora_on_the_text_tower_learns_it_too(family: DualEncoder) -> None:
    settings = Settings(train_steps=30)
    drawn = scenes(ANNOTATED + UNSEEN)
    examples = [prepared(family, GRADES, scene, result_of(scene), n) for n, scene in enumerate(drawn)]
    learned, unseen = examples[:ANNOTATED], examples[ANNOTATED:]
    before = evaluate.score(GRADES, family, unseen, 16).values["accuracy"]
    recipe = lora.Recipe.from_settings(settings, "float32")
    with lora.adapted(family, learned[0].training_example.question, None, recipe) as model:
        generator = torch.Generator().manual_seed(recipe.seed)
        lora.fine_tune(family, model, lora.precompute(family, model, learned, generator), recipe, lambda _: None)
        after = evaluate.score(GRADES, family, unseen, 16).values["accuracy"]
    assert after > before + 0.1, f"{before} -> {after}"


@pytest.mark.long
def test_a_run_beside_the_head_is_cross_validated_by_pictures(open_services: Open, store: Store) -> None:
    """Bare rectangles, which the detector does not find: a run then learns nothing but the grades."""
    open_services(lora_min_tasks=20, train_steps=5)
    config = LABEL_CONFIG.replace("RectangleLabels", "Rectangle")
    projects.upsert(store, PROJECT, label_config=config)
    assert [binding.from_name for binding in bind(config).bindings] == ["grade"]
    with store.write() as session:
        for number, scene in enumerate(scenes(24), start=1):
            session.add(
                Annotation(
                    id=number,
                    project_id=PROJECT,
                    task_id=number,
                    task_data={"image": data_url(png(scene), "image/png")},
                    result=[
                        {**each, "type": each["type"].replace("rectanglelabels", "rectangle")}
                        for each in result_of(scene)
                    ],
                    updated_at=START + timedelta(seconds=number),
                    times_applied=1,
                )
            )
    run = train(store, "24 new annotations")
    assert run.error is None
    assert "on 24 tasks, cross-validated" in str(run.decision) or "on 8 tasks" in str(run.decision), run.decision
