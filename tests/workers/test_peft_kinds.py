"""Each kind of adapter is trained, saved, gone on from, and exchanged for another kind."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AdaLoraConfig, LoraConfig
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from lorabel.adapter_kinds import ADALORA, DORA, IA3, KINDS, LORA, RSLORA
from lorabel.database.adapter_folders import AdapterFolders
from lorabel.errors import SettingsError
from lorabel.families.cache import FeatureCache
from lorabel.families.dual_encoder import DualEncoder
from lorabel.families.loading import check_lora_kinds
from lorabel.settings import Settings
from model_server.adapters import AdapterBank
from tests.workers.test_lora import QUESTION, examples, family, recipe, untouched
from workers import evaluate, lora, peft_kinds
from workers.beside_head import recipe_for

__all__ = ["family", "untouched"]

pytestmark = pytest.mark.slow

# IA3 and AdaLoRA begin with small changes, and need larger steps.
RATES = {LORA: 1e-2, RSLORA: 1e-2, DORA: 1e-2, ADALORA: 5e-2, IA3: 5e-2}
STEPS = 40


def recipe_of(kind: str, **changed: object) -> lora.Recipe:
    return recipe(**{"kind": kind, "learning_rate": RATES[kind], "steps": STEPS, **changed})


def train(family: DualEncoder, kind: str, folder: Path, live: Path | None = None, **changed: object) -> Path:
    """Train, and save the adapter into a new folder of its own in `folder`, whose name it returns."""
    chosen = recipe_of(kind, **changed)
    with lora.adapted(family, QUESTION, live, chosen) as model:
        lora.fine_tune(family, model, examples(family), chosen, lambda _: None)
        lora.save(model, folder)
    return folder


def right_share(answers: Sequence[Any]) -> float:
    """How many of the tasks of `examples` are answered right: they are red, blue, red, blue, ..."""
    right = [int(torch.tensor(answer.probabilities).argmax()) == i % 2 for i, answer in enumerate(answers)]
    return sum(right) / len(right)


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


@pytest.fixture(scope="module")
def both_towers(family: DualEncoder) -> DualEncoder:
    return replace(family, settings=Settings(lora_towers="both"))


@pytest.fixture(scope="module")
def trained(both_towers: DualEncoder, tmp_path_factory: pytest.TempPathFactory) -> AdapterFolders:
    """An adapter of each kind, `p1.v<n>/label`, that has learned which picture is red and which blue."""
    folders = AdapterFolders(tmp_path_factory.mktemp("adapters"))
    for version, kind in enumerate(KINDS, 1):
        folders.write(f"p1.v{version}", lambda folder, kind=kind: train(both_towers, kind, folder / "label"))  # type: ignore[misc]
    return folders


def folder_of(trained: AdapterFolders, kind: str) -> Path:
    return trained.path(f"p1.v{KINDS.index(kind) + 1}/label")


@pytest.mark.usefixtures("untouched")
def test_each_kind_learns_and_is_served_as_it_was_trained(
    both_towers: DualEncoder, trained: AdapterFolders
) -> None:
    """The bank answers a batch of all kinds as PEFT does in the worker, and all answers are right."""
    tasks = examples(both_towers)
    served = replace(both_towers, module=both_towers.module)
    bank = AdapterBank(served, trained, memory_bytes=10**9)
    names = [f"p1.v{version}/label" for version in range(1, len(KINDS) + 1)]
    with torch.inference_mode():
        rows = [(task.model_input, name) for task in tasks for name in names]
        mixed = served.predict([row for row, _ in rows], [name for _, name in rows], bank, FeatureCache({}))
    for number, kind in enumerate(KINDS):
        answers = mixed[number :: len(KINDS)]
        assert right_share(answers) == 1, kind
        folder = folder_of(trained, kind)
        assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
        with (
            lora.adapted(both_towers, QUESTION, folder, recipe_of(kind)) as model,
            lora.with_live(model, folder),
        ):
            by_peft = evaluate.predict(both_towers, tasks, 64)
        for answer, expected in zip(answers, by_peft, strict=True):
            assert answer.probabilities == pytest.approx(expected.probabilities, abs=1e-4), kind


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("kind", [DORA, ADALORA, IA3])
def test_a_training_goes_on_from_an_adapter_of_its_kind(
    both_towers: DualEncoder, trained: AdapterFolders, tmp_path: Path, kind: str
) -> None:
    live = folder_of(trained, kind)
    before = weights_of(live)
    with lora.adapted(both_towers, QUESTION, live, recipe_of(kind)) as model:
        assert right_share(evaluate.predict(both_towers, examples(both_towers), 64)) == 1
        lora.save(model, tmp_path / "same")
    same = weights_of(tmp_path / "same")
    assert same.keys() == before.keys() and all(torch.equal(same[key], before[key]) for key in before)
    changed = weights_of(train(both_towers, kind, tmp_path / "more", live, steps=2, learning_rate=1e-3))
    assert {key: weight.shape for key, weight in changed.items()} == {
        key: weight.shape for key, weight in before.items()
    }
    assert any(not torch.equal(changed[key], before[key]) for key in before)


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize(("live_kind", "kind"), [(LORA, IA3), (ADALORA, DORA)])
def test_a_training_of_another_kind_begins_anew_beside_live(
    both_towers: DualEncoder, trained: AdapterFolders, live_kind: str, kind: str
) -> None:
    """The candidate answers as the base model, and live as before, so that they can be compared."""
    live, tasks = folder_of(trained, live_kind), examples(both_towers)
    base = evaluate.predict(both_towers, tasks, 64)
    assert not lora.continues(live, recipe_of(kind))
    with lora.adapted(both_towers, QUESTION, live, recipe_of(kind)) as model:
        anew = evaluate.predict(both_towers, tasks, 64)
        with lora.with_live(model, live):
            assert right_share(evaluate.predict(both_towers, tasks, 64)) == 1
        again = evaluate.predict(both_towers, tasks, 64)
        lora.fine_tune(both_towers, model, tasks, recipe_of(kind), lambda _: None)
        assert right_share(evaluate.predict(both_towers, tasks, 64)) == 1, "the exchange left it trainable"
    for answer, once_more, expected in zip(anew, again, base, strict=True):
        assert answer.probabilities == pytest.approx(expected.probabilities, abs=1e-5)
        assert once_more.probabilities == pytest.approx(expected.probabilities, abs=1e-5)


def test_adalora_gives_up_ranks_until_the_mean_is_the_set_one(
    both_towers: DualEncoder, trained: AdapterFolders
) -> None:
    folder = folder_of(trained, ADALORA)
    config = AdaLoraConfig.from_pretrained(folder)
    ranks = [len(weight) for key, weight in weights_of(folder).items() if key.endswith("lora_A")]
    assert config.init_r == 6 and max(ranks) <= 6
    assert sum(ranks) <= 4 * len(ranks) < 6 * len(ranks), "rank 4 on average"
    assert len(set(ranks)) > 1, "some layers keep more than others"


def test_a_training_too_short_to_choose_ranks_keeps_all(both_towers: DualEncoder, tmp_path: Path) -> None:
    folder = train(both_towers, ADALORA, tmp_path / "short", steps=3)
    assert {len(weight) for key, weight in weights_of(folder).items() if key.endswith("lora_A")} == {6}


def test_rslora_takes_the_same_steps_at_every_rank() -> None:
    alphas = [peft_kinds.new_config(RSLORA, rank, "layer", 10).lora_alpha for rank in (4, 64)]
    assert alphas[0] == alphas[1]


@pytest.mark.parametrize(("kind", "is_refused"), [(DORA, True), (IA3, True), (ADALORA, False), (LORA, False)])
def test_layers_that_begin_with_zeros_are_refused_where_a_kind_cannot_learn_them(
    both_towers: DualEncoder, kind: str, is_refused: bool
) -> None:
    layers = [*both_towers.trained_layers(QUESTION), "heads.rating"]
    fault = peft_kinds.refusal(kind, both_towers, layers)
    assert (fault is not None) == is_refused
    assert fault is None or ("heads.rating" in fault and "LORA_KIND_DUAL_ENCODER=lora" in fault)
    assert peft_kinds.refusal(kind, both_towers, layers[:-1]) is None


def test_layers_of_live_that_begin_with_zeros_are_refused(both_towers: DualEncoder, tmp_path: Path) -> None:
    """Live has learned layers that are not trained now, but that its successor is put on, too."""
    layers = both_towers.trained_layers(QUESTION)
    weights = {"base_model.model.heads.rating.lora_A.weight": torch.zeros(4, 32)}
    save_file(weights, tmp_path / "adapter_model.safetensors")
    LoraConfig(target_modules=["rating"]).save_pretrained(tmp_path)
    assert peft_kinds.refusal(DORA, both_towers, layers) is None
    assert "heads.rating" in str(peft_kinds.refusal(DORA, both_towers, layers, tmp_path))
    assert peft_kinds.refusal(LORA, both_towers, layers, tmp_path) is None


def test_a_family_has_its_own_kind_where_it_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORA_KIND", "dora")
    monkeypatch.setenv("LORA_KIND_DETECTOR", "ia3")
    settings = Settings()
    assert (settings.lora_kind_of("detector"), settings.lora_kind_of("text_encoder")) == (IA3, DORA)
    check_lora_kinds(settings)
    monkeypatch.setenv("LORA_KIND_DETEKTOR", "ia3")
    with pytest.raises(SettingsError, match=r"LORA_KIND_DETEKTOR.*known: .*detector"):
        check_lora_kinds(Settings())


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"LORA_KIND_DETECTOR": "qlora"}, "LORA_KIND_DETECTOR='qlora' is no kind .* lora, rslora, dora"),
        ({"LORA_KIND": "dora", "GENERATOR_URL": "http://x"}, "GENERATOR_URL .*LORA_KIND_GENERATOR=lora"),
        ({"LORA_KIND_GENERATOR": "adalora", "GENERATOR_URL": "http://x"}, "GENERATOR_URL computes only lora and"),
        ({"LORA_KIND": "dora", "GENERATOR_4BIT": "true"}, "GENERATOR_4BIT.*LORA_KIND_GENERATOR=lora"),
    ],
)
def test_settings_that_cannot_be_served_are_refused_at_the_start(
    monkeypatch: pytest.MonkeyPatch, values: dict[str, str], reason: str
) -> None:
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError, match=reason):
        Settings()
    monkeypatch.setenv("LORA_KIND_DETECTOR", "dora")
    monkeypatch.setenv("LORA_KIND_GENERATOR", "rslora")
    Settings()


def test_kinds_that_begin_with_small_changes_are_trained_at_ten_times_the_rate(family: DualEncoder) -> None:
    plain = recipe()
    rates = {
        kind: recipe_for(family, QUESTION, plain, Settings(lora_kind=kind)).learning_rate / plain.learning_rate
        for kind in KINDS
    }
    assert rates == pytest.approx({LORA: 1, RSLORA: 1, DORA: 1, ADALORA: 10, IA3: 10})
