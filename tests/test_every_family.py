"""What every family must do; a new file in `lorabel/families/` is covered by itself.

The examples are those of the samples of a problem that the family serves, with contents that `tests/contents.py`
makes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from lorabel import problems
from lorabel.contracts import Content, EmbedInput, Input
from lorabel.database.adapter_folders import AdapterFolders
from lorabel.discovery import discover
from lorabel.errors import SettingsError
from lorabel.families.base import Family, NoBatchAdapters
from lorabel.families.cache import FEATURES, FeatureCache
from lorabel.families.loading import family_for, family_types
from lorabel.media.fetching import digest
from lorabel.problems.base import Problem, Sample
from lorabel.problems.binding import bind
from lorabel.settings import Settings
from model_server.adapters import AdapterBank
from tests.contents import FOUR, made_of, read
from tests.model_server.test_adapters import save_random_adapter


def _is_served(family: type[Family], sample: Sample) -> bool:
    (binding,) = bind(sample.label_config).bindings
    try:
        return family_for(binding.model_input(sample.data)) is family
    except SettingsError:
        return False


SERVED = [
    pytest.param(family, problem.SAMPLES[0], id=f"{family.name}-{problem.name}")
    for family in family_types()
    for problem in discover(problems, Problem)  # type: ignore[type-abstract]
    if _is_served(family, problem.SAMPLES[0])
]


@pytest.fixture
def source(kind: type[Family], tmp_path: Path) -> str:
    torch.manual_seed(0)
    return kind.tiny(tmp_path / "base")


def load(kind: type[Family], source: str) -> Family:
    return kind.load(source, torch.device("cpu"), torch.float32, Settings())


def question_of(sample: Sample) -> Input:
    (binding,) = bind(sample.label_config).bindings
    return binding.model_input(sample.data)


def four_examples(family: Family, sample: Sample) -> list[Any]:
    return [family.prepare(made_of(question_of(sample), number), read) for number in range(FOUR)]


def four_targets(family: Family, sample: Sample) -> list[Any]:
    """Two kinds of them, in turn: what the sample says, and what the opposite is."""
    (binding,) = bind(sample.label_config).bindings
    one, other = (binding.target(result, sample.data) for result in (sample.result, sample.opposite))
    return [one, other, one, other]


def numbers(outputs: Sequence[Any]) -> torch.Tensor:
    """Every figure of the outputs, row by row."""
    return torch.tensor([_flat(output.model_dump()) for output in outputs])


def _flat(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [one for part in value.values() for one in _flat(part)]
    if isinstance(value, list | tuple):
        return [one for part in value for one in _flat(part)]
    return [float(value)] if isinstance(value, int | float) else []


def test_every_family_is_asked_by_some_problem() -> None:
    assert {kind.name for kind in family_types()} == {param.values[0].name for param in SERVED}


@pytest.mark.parametrize(("kind", "sample"), SERVED)
def test_a_batch_with_mixed_adapters_equals_its_rows_one_by_one(
    kind: type[Family], sample: Sample, source: str, tmp_path: Path
) -> None:
    adapter_folders = AdapterFolders(tmp_path / "adapters")
    one, two = (
        save_random_adapter(load(kind, source), adapter_folders, version, 4) for version in ("p1.v1", "p2.v1")
    )
    family = load(kind, source)
    bank = AdapterBank(family, adapter_folders, 10**9)
    adapters = [one, None, two, one]
    examples = four_examples(family, sample)
    together = family.predict(examples, adapters, bank, FeatureCache({}))
    alone = [family.predict([e], [a], bank, FeatureCache({}))[0] for e, a in zip(examples, adapters, strict=True)]
    for mixed, single in zip(together, alone, strict=True):
        torch.testing.assert_close(numbers([mixed]), numbers([single]), rtol=1e-3, atol=1e-4)
    changed = family.predict(examples, [one] * FOUR, bank, FeatureCache({}))
    other = family.predict(examples, [two] * FOUR, bank, FeatureCache({}))
    assert any(a != b for a, b in zip(changed, other, strict=True)), "an adapter changes what is predicted"


@pytest.mark.parametrize(("kind", "sample"), SERVED)
def test_the_loss_falls_on_four_examples(kind: type[Family], sample: Sample, source: str) -> None:
    family = load(kind, source)
    examples, targets = four_examples(family, sample), four_targets(family, sample)
    model = get_peft_model(family.module, LoraConfig(r=4, target_modules=family.lora_layers()))
    optimizer = torch.optim.AdamW([w for w in model.parameters() if w.requires_grad], lr=1e-2)
    losses = []
    for _ in range(40):
        each = family.loss(examples, targets)
        assert each.shape == (FOUR,)
        each.mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(each.detach().mean()))
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("kind", [one for one in family_types() if EmbedInput in one.inputs])
def test_an_encoder_puts_its_modalities_into_one_space_and_finds_them_again(
    kind: type[Family], source: str
) -> None:
    """The first and the third content are alike, and so are the second and the fourth."""
    family, cache = load(kind, source), FeatureCache({FEATURES: 10**6})
    for modality in sorted(kind.modalities):
        any_content = EmbedInput(contents=(Content(modality=modality, text="to be replaced"),))
        asked = [made_of(any_content, number) for number in range(FOUR)]
        examples = [family.prepare(question, read) for question in asked]
        outputs = family.predict(examples, [None] * FOUR, NoBatchAdapters(), cache)
        assert outputs[0] == outputs[2] != outputs[1] == outputs[3]
        recalled = family.recall(asked[1], lambda media: digest(read(media)), None, NoBatchAdapters(), cache)
        assert family.answer(recalled, None, NoBatchAdapters(), cache) == outputs[1]


@pytest.mark.parametrize(("kind", "sample"), SERVED)
def test_augmented_examples_are_as_good_and_the_same_for_the_same_seed(
    kind: type[Family], sample: Sample, source: str
) -> None:
    family = load(kind, source)
    examples, targets = four_examples(family, sample), four_targets(family, sample)
    once, again = (family.augment(examples, torch.Generator().manual_seed(3)) for _ in range(2))
    with torch.no_grad():
        first, second = (family.loss(found, targets) for found in (once, again))
    assert torch.equal(first, second)


@pytest.mark.parametrize(("kind", "sample"), SERVED)
def test_precomputed_examples_give_the_same_answers(kind: type[Family], sample: Sample, source: str) -> None:
    family = load(kind, source)
    examples = four_examples(family, sample)
    made = family.precompute(examples, family.trained_layers(question_of(sample)), torch.Generator())
    expected, found = (
        family.predict(inputs, [None] * FOUR, NoBatchAdapters(), FeatureCache({})) for inputs in (examples, made)
    )
    for one, two in zip(expected, found, strict=True):
        torch.testing.assert_close(numbers([two]), numbers([one]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("kind", "sample"), SERVED)
def test_an_adapter_on_the_layers_that_a_question_trains_changes_the_answer(
    kind: type[Family], sample: Sample, source: str, tmp_path: Path
) -> None:
    adapter_folders, trained = (
        AdapterFolders(tmp_path / "adapters"),
        load(kind, source).trained_layers(question_of(sample)),
    )
    adapter = save_random_adapter(load(kind, source), adapter_folders, "p1.v1", 4, trained)
    family = load(kind, source)
    assert set(trained) <= set(family.lora_layers())
    bank, examples = AdapterBank(family, adapter_folders, 10**9), four_examples(family, sample)
    before, after = (family.predict(examples, [name] * FOUR, bank, FeatureCache({})) for name in (None, adapter))
    assert all(one != other for one, other in zip(before, after, strict=True))
