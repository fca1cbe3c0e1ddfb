import base64
import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from lorabel.contracts import LabelTarget, Modality, RatingInput
from lorabel.errors import LorabelError
from lorabel.families.cache import FeatureCache
from lorabel.families.dual_encoder import DualEncoder
from lorabel.families.encoders.prepared_input import PreparedContent, PreparedInput
from lorabel.settings import Settings
from tests.questions import about_picture
from workers import lora
from workers.active_adapter import ACTIVE, ActiveAdapter
from workers.examples import PreparedExample, TrainingExample

pytestmark = pytest.mark.slow

TEXTS = ("red", "blue")
QUESTION = about_picture("x", TEXTS)
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> DualEncoder:
    torch.manual_seed(0)
    source = DualEncoder.tiny(tmp_path_factory.mktemp("base"))
    return DualEncoder.load(source, torch.device("cpu"), torch.float32, Settings())


@pytest.fixture
def untouched(family: DualEncoder) -> Iterator[None]:
    before = {name: weight.clone() for name, weight in family.module.state_dict().items()}
    yield
    after = family.module.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) for name in before)


def examples(family: DualEncoder) -> list[PreparedExample]:
    pixels = [family.transform(Image.new("RGB", (32, 32), text)) for text in TEXTS]
    return [
        PreparedExample(
            TrainingExample((i,), i, QUESTION, LabelTarget((i % 2,)), i % 2, True),
            PreparedInput(QUESTION, (PreparedContent(Modality.IMAGE, pixels[i % 2]),)),
        )
        for i in range(12)
    ]


def recipe(**changed: object) -> lora.Recipe:
    columns = {
        "rank": 4,
        "learning_rate": 1e-2,
        "steps": 30,
        "batch": 8,
        "patience": 30,
        "seed": 1,
        "precision": "float32",
    }
    return lora.Recipe(**{**columns, **changed})  # type: ignore[arg-type]


def train(
    family: DualEncoder, folder: Path, live: Path | None = None, **changed: object
) -> tuple[float, list[int]]:
    steps: list[int] = []
    with lora.adapted(family, QUESTION, live, recipe(**changed)) as model:
        loss = lora.fine_tune(family, model, examples(family), recipe(**changed), lambda p: steps.append(p.step))
        model.save_pretrained(folder / "adapter", selected_adapters=[lora.CANDIDATE], save_embedding_layers=False)
    return loss, steps


@pytest.mark.usefixtures("untouched")
def test_training_lowers_the_loss_reports_each_step_and_leaves_the_base_model_unchanged(
    family: DualEncoder, tmp_path: Path
) -> None:
    loss, steps = train(family, tmp_path)
    assert loss < 0.2
    assert steps == list(range(1, len(steps) + 1))


@pytest.mark.usefixtures("untouched")
def test_the_same_seed_gives_the_same_adapter(family: DualEncoder, tmp_path: Path) -> None:
    train(family, tmp_path / "one")
    train(family, tmp_path / "two")
    train(family, tmp_path / "three", seed=2)
    one, two, three = (
        (tmp_path / name / "adapter" / "adapter_model.safetensors").read_bytes()
        for name in ("one", "two", "three")
    )
    assert one == two != three


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("towers", ["text", "both"])
def test_an_adapter_is_on_the_layers_of_its_towers_only(family: DualEncoder, tmp_path: Path, towers: str) -> None:
    """The name of an image tower's layer ends with the name of a text tower's layer."""
    train(replace(family, settings=Settings(lora_towers=towers)), tmp_path, steps=1)
    weights = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    names = {key.removeprefix("base_model.model.").rpartition(".lora_")[0] for key in weights}
    assert names == set(replace(family, settings=Settings(lora_towers=towers)).trained_layers(QUESTION))


def test_a_run_for_more_towers_adds_their_layers_to_the_live_adapter(family: DualEncoder, tmp_path: Path) -> None:
    train(family, tmp_path / "text")
    train(
        replace(family, settings=Settings(lora_towers="both")),
        tmp_path / "both",
        tmp_path / "text" / "adapter",
        steps=1,
    )
    weights = load_file(tmp_path / "both" / "adapter" / "adapter_model.safetensors")
    assert len(weights) == 2 * len(family.tower_layers())


def test_a_run_starts_from_the_live_adapter(family: DualEncoder, tmp_path: Path) -> None:
    train(family, tmp_path / "first")
    loss, steps = train(family, tmp_path / "second", live=tmp_path / "first" / "adapter", steps=1)
    assert loss < 0.3 and steps == [1]


@pytest.mark.usefixtures("untouched")
def test_training_stops_early_when_the_loss_no_longer_falls(family: DualEncoder, tmp_path: Path) -> None:
    _, steps = train(family, tmp_path, steps=500, learning_rate=0.0, patience=5)
    assert len(steps) < 100


@pytest.mark.usefixtures("untouched")
def test_training_that_diverges_ends_with_the_reason(family: DualEncoder, tmp_path: Path) -> None:
    with pytest.raises(LorabelError, match=r"the loss is nan after \d+ steps.*lower LEARNING_RATE \(1e\+30\)"):
        train(family, tmp_path, learning_rate=1e30)


def test_an_adapter_is_effective_only_on_its_own_layers(family: DualEncoder, tmp_path: Path) -> None:
    """A live adapter without a head is not effective on the head, even if the candidate beside it has one."""
    train(family, tmp_path)
    rating = RatingInput(contents=QUESTION.contents)
    (head,) = family.trained_layers(rating)

    def are_changed() -> tuple[bool, bool]:
        """Whether the active adapter changes the head, and the text tower."""
        active = ActiveAdapter(family.module)
        of_head = active.effective_adapter(ACTIVE, {head})
        of_tower = active.effective_adapter(ACTIVE, family.tower(Modality.TEXT))
        return of_head is not None, of_tower is not None

    with lora.adapted(family, rating, tmp_path / "adapter", recipe()) as model:
        assert are_changed() == (True, True)
        with lora.with_live(model, tmp_path / "adapter"):
            assert are_changed() == (False, True)
    with lora.adapted(family, rating, None, recipe()) as model:
        assert are_changed() == (True, False)
        with lora.with_live(model, None):
            assert are_changed() == (False, False)
    assert are_changed() == (False, False)


def test_classes_have_equal_weight_in_the_loss_up_to_the_largest_weight_of_an_example() -> None:
    weights = lora.balance(["common"] * 6 + ["rare"] * 2)
    assert sum(weights) == pytest.approx(8), "1 in the mean"
    assert sum(weights[:6]) == pytest.approx(sum(weights[6:]))
    limited = lora.balance(["common"] * 99 + ["once"])
    assert limited[-1] / limited[0] == pytest.approx(lora.LARGEST_WEIGHT / (100 / (2 * 99)))


def test_a_batch_has_the_weights_of_its_examples_classes(family: DualEncoder) -> None:
    first, second, third = examples(family)[:3]
    batch = next(lora._batches(family, [first, third, second], recipe(batch=3)))
    by_class = {target.indices[0]: weight for target, weight in zip(batch.targets, batch.weights, strict=True)}
    assert by_class == {0: pytest.approx(0.75), 1: pytest.approx(1.5)}


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("fault", ["another rank", "another shape", "a layer that LoRA cannot change"])
def test_a_live_adapter_that_cannot_be_attached_leaves_the_base_model_unchanged(
    family: DualEncoder, tmp_path: Path, fault: str
) -> None:
    """The worker keeps the base model for the next run, which would train on top of what is left in it."""
    train(family, tmp_path, steps=1)
    folder = tmp_path / "adapter"
    weights = load_file(folder / "adapter_model.safetensors")
    if fault == "another rank":
        config = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps({**config, "r": 7}))
    elif fault == "another shape":
        save_file({name: weight[:, :1].clone() for name, weight in weights.items()}, folder / WEIGHTS)
    else:
        norm = next(name for name, layer in family.module.named_modules() if isinstance(layer, nn.LayerNorm))
        save_file({**weights, f"{lora.PREFIX}{norm}.lora_A.weight": torch.zeros(4, 8)}, folder / WEIGHTS)
    with pytest.raises((RuntimeError, ValueError)), lora.adapted(family, QUESTION, folder, recipe()):
        pass
    assert not any("lora" in name for name, _ in family.module.named_modules())
    assert not any(weight.requires_grad for weight in family.module.parameters())


@pytest.mark.usefixtures("untouched")
def test_an_error_during_training_leaves_the_base_model_unchanged(family: DualEncoder, tmp_path: Path) -> None:
    train(family, tmp_path, steps=1)
    with pytest.raises(RuntimeError, match="lost"), lora.adapted(family, QUESTION, tmp_path / "adapter", recipe()):
        raise RuntimeError("the run is lost")
    assert not any("lora" in name for name, _ in family.module.named_modules())


def test_an_adapter_for_a_head_is_on_the_towers_of_the_contents_and_brings_equal_labels_together(
    family: DualEncoder, tmp_path: Path
) -> None:
    changed = {"is_for_head": True, "steps": 60, "patience": 60}
    with lora.adapted(family, QUESTION, None, recipe(**changed)) as model:
        assert set(model.base_model.targeted_module_names) == family.tower(Modality.IMAGE)
        before = spread(family)
        lora.fine_tune(family, model, examples(family), recipe(**changed), lambda progress: None)
        after = spread(family)
    assert after > before + 0.3


def spread(family: DualEncoder) -> float:
    """1 - the cosine between a red and a blue picture."""
    pictures = [example.model_input.contents[0].data for example in examples(family)[:2]]
    with torch.inference_mode():
        red, blue = family.encode(Modality.IMAGE, pictures)
    return 1 - float(red @ blue)


@pytest.mark.usefixtures("untouched")
def test_training_ends_with_its_time(family: DualEncoder, tmp_path: Path) -> None:
    _, steps = train(family, tmp_path, steps=10**6, patience=10**6, learning_rate=1e-5, max_seconds=1.0)
    assert len(steps) < 10**5


def test_the_active_adapter_is_left_out_where_the_base_model_is_asked_for(
    family: DualEncoder, tmp_path: Path
) -> None:
    changed = {"is_for_head": True, "steps": 3}
    (picture,) = {id(example): example.model_input for example in examples(family)[:1]}.values()
    with lora.adapted(family, QUESTION, None, recipe(**changed)) as model:
        lora.fine_tune(family, model, examples(family), recipe(**changed), lambda progress: None)
        asked = [family.for_features(picture, None)]
        (both,) = family.predict(asked, [ACTIVE], ActiveAdapter(family.module), FeatureCache({}))
        assert any(weight.requires_grad for weight in model.parameters()), "training can go on"
        with (
            pytest.raises(ValueError, match="all rows of a batch"),
            ActiveAdapter(family.module).use(["a", None]),
        ):
            pass
    (base,) = family.predict(asked, [None], ActiveAdapter(family.module), FeatureCache({}))
    assert (base.dim, both.dim) == (32, 64)
    both_rows, base_rows = (np.frombuffer(base64.b64decode(features.float16), "<f2") for features in (both, base))
    np.testing.assert_allclose(both_rows[:32], base_rows, atol=1e-3)
    assert np.abs(both_rows[32:] - base_rows).max() > 0.01


def test_a_recipe_can_be_stored_in_every_database() -> None:
    """PostgreSQL's JSON knows no infinity, and SQLite's takes it."""
    recipe = lora.Recipe.from_settings(Settings(), "float32")
    assert json.loads(json.dumps(asdict(recipe), allow_nan=False)) == asdict(recipe)
