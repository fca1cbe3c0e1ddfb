"""What every family must do. A new file in `lorabel/families/` is covered without a change here.

The inputs are the samples of the problems that the family serves, with contents from `tests/contents.py`.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from lorabel.contracts import Content, EmbedInput, Input
from lorabel.database.adapter_folders import AdapterFolders
from lorabel.errors import SettingsError
from lorabel.families.base import Family, NoBatchAdapters
from lorabel.families.cache import FEATURES, FeatureCache
from lorabel.families.loading import family_for, family_types
from lorabel.families.tracker import Tracker
from lorabel.feature_contracts import HEADED_ALONE
from lorabel.media.fetching import digest
from lorabel.problems._segments import SegmentsProblem
from lorabel.problems.base import Problem, Sample
from lorabel.problems.binding import problem_types
from lorabel.settings import Settings
from lorabel.time_contracts import SegmentScores
from model_server.adapters import AdapterBank
from tests.contents import FOUR, made_of, read
from tests.model_server.test_adapters import save_random_adapter
from tests.samples import binding_of
from workers.lora import only

pytestmark = pytest.mark.slow


def _is_served(family: type[Family], problem: type[Problem], sample: Sample) -> bool:
    try:
        return family_for(binding_of(problem, sample).model_input(sample.data)) is family
    except SettingsError:
        return False


SERVED = [
    pytest.param(family, problem, problem.SAMPLES[0], id=f"{family.name}-{problem.name}")
    for family in family_types()
    for problem in problem_types()
    if _is_served(family, problem, problem.SAMPLES[0])
]
TRAINED = [
    param
    for param in SERVED
    if param.values[0].has_lora and not issubclass(param.values[1].input_type, HEADED_ALONE)
]
SERVED_SAMPLES = [
    pytest.param(family, problem, sample, id=f"{family.name}-{problem.name}{index}")
    for family in family_types()
    for problem in problem_types()
    for index, sample in enumerate(problem.SAMPLES)
    if _is_served(family, problem, sample)
]
MOST_STEPS = 150


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Callable[[type[Family]], str]:
    """A function that returns the source of a family's tiny model, which it writes once."""
    folder = tmp_path_factory.mktemp("base")

    @cache
    def source_of(family_type: type[Family]) -> str:
        torch.manual_seed(0)  # of the base model's weights
        return family_type.tiny(folder / family_type.name)

    return source_of


@pytest.fixture
def source(family_type: type[Family], sources: Callable[[type[Family]], str]) -> str:
    source = sources(family_type)
    torch.manual_seed(0)  # of what the test draws
    return source


def load(family_type: type[Family], source: str) -> Family:
    """The family with its base model, read once from the source.

    Adapters change the module of a family that has LoRA, so each caller has a copy. Any other family is shared.
    """
    family = _loaded(family_type, source)
    return deepcopy(family) if family.has_lora else family


@cache
def _loaded(family_type: type[Family], source: str) -> Family:
    return family_type.load(source, torch.device("cpu"), torch.float32, Settings())


def question_of(problem: type[Problem], sample: Sample) -> Input:
    """What is asked for the sample's result: with the smart tool's context, if it has one."""
    binding = binding_of(problem, sample)
    question = binding.model_input(sample.data)
    prompted = None if sample.context is None else binding.prompted(question, sample.context)
    return question if prompted is None else prompted


def four_inputs(family: Family, problem: type[Problem], sample: Sample) -> list[Any]:
    return [family.prepare(made_of(question_of(problem, sample), number), read) for number in range(FOUR)]


def four_targets(problem: type[Problem], sample: Sample) -> list[Any]:
    """In turn the target of the sample's result, and that of its opposite."""
    binding = binding_of(problem, sample)
    target, opposite = (binding.target(result, sample.data) for result in (sample.result, sample.opposite))
    return [target, opposite, target, opposite]


def numbers(outputs: Sequence[Any]) -> torch.Tensor:
    """(outputs, numbers): every number in each output."""
    return torch.tensor([_flat(output.model_dump()) for output in outputs])


def _flat(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [number for part in value.values() for number in _flat(part)]
    if isinstance(value, list | tuple):
        return [number for part in value for number in _flat(part)]
    return [float(value)] if isinstance(value, int | float) else []


def test_every_family_answers_the_questions_of_some_problem() -> None:
    # The tracker is asked by a pipeline, for tracks that people have begun: tests/model_server/test_track_rows.py.
    names = {param.values[0].name for param in SERVED} | {Tracker.name}
    assert {family_type.name for family_type in family_types()} == names


@pytest.mark.parametrize(("family_type", "problem", "sample"), TRAINED)
def test_a_batch_with_mixed_adapters_equals_its_rows_one_by_one(
    family_type: type[Family], problem: type[Problem], sample: Sample, source: str, tmp_path: Path
) -> None:
    adapter_folders = AdapterFolders(tmp_path / "adapters")
    first, second = (
        save_random_adapter(load(family_type, source), adapter_folders, version, 4)
        for version in ("p1.v1", "p2.v1")
    )
    family = load(family_type, source)
    bank = AdapterBank(family, adapter_folders, 10**9)
    adapters = [first, None, second, first]
    inputs = four_inputs(family, problem, sample)
    mixed_outputs = family.predict(inputs, adapters, bank, FeatureCache({}))
    for row, adapter, mixed in zip(inputs, adapters, mixed_outputs, strict=True):
        (alone,) = family.predict([row], [adapter], bank, FeatureCache({}))
        torch.testing.assert_close(numbers([mixed]), numbers([alone]), rtol=1e-3, atol=1e-4)
    first_outputs = family.predict(inputs, [first] * FOUR, bank, FeatureCache({}))
    second_outputs = family.predict(inputs, [second] * FOUR, bank, FeatureCache({}))
    assert any(a != b for a, b in zip(first_outputs, second_outputs, strict=True)), "an adapter changes the output"


@pytest.mark.parametrize(("family_type", "problem", "sample"), SERVED_SAMPLES)
def test_a_base_model_is_silent_for_the_control_tags_that_say_so_and_answers_the_others(
    family_type: type[Family], problem: type[Problem], sample: Sample, source: str
) -> None:
    binding = binding_of(problem, sample)
    family = load(family_type, source)
    bank = AdapterBank(family, AdapterFolders(Path(source)), 10**9)
    question = family.prepare(made_of(binding.model_input(sample.data), 0), read)
    (output,) = family.predict([question], [None], bank, FeatureCache({}))
    # An answer with distributions, or about every moment of a sound, says that none of the labels fits.
    is_answer = bool(binding.distributions(output)) or isinstance(output, SegmentScores)
    is_silent = binding.prediction(output, sample.data).regions == [] and not is_answer
    assert is_silent is binding.is_silent_until_taught


@pytest.mark.parametrize(
    ("family_type", "problem", "sample"),
    [
        # A sound has many windows, and each step encodes them all.
        pytest.param(
            *param.values,
            id=param.id,
            marks=pytest.mark.long if issubclass(param.values[1], SegmentsProblem) else (),
        )
        for param in TRAINED
    ],
)
def test_the_loss_falls_on_four_examples(
    family_type: type[Family], problem: type[Problem], sample: Sample, source: str
) -> None:
    family = load(family_type, source)
    inputs, targets = four_inputs(family, problem, sample), four_targets(problem, sample)
    model = get_peft_model(family.module, LoraConfig(r=4, target_modules=family.lora_layers()))
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=3e-3)
    mean_losses: list[float] = []
    while len(mean_losses) < MOST_STEPS and (not mean_losses or mean_losses[-1] >= 0.5 * mean_losses[0]):
        losses = family.loss(inputs, targets)
        assert losses.shape == (FOUR,)
        losses.mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        mean_losses.append(float(losses.detach().mean()))
    assert mean_losses[-1] < 0.5 * mean_losses[0]


@pytest.mark.parametrize("family_type", [family for family in family_types() if family.has_lora])
def test_layers_keep_their_names_while_an_adapter_is_on_them(family_type: type[Family], source: str) -> None:
    """A run asks a family for the first time while PEFT's layers stand around its own."""
    family = load(family_type, source)
    names = family.lora_layers()
    get_peft_model(family.module, LoraConfig(r=4, target_modules=only(names[: len(names) // 2])))
    assert family.lora_layers() == names


@pytest.mark.parametrize("family_type", [family for family in family_types() if not family.has_lora])
def test_a_family_without_lora_has_no_layers_for_it(family_type: type[Family], source: str) -> None:
    family = load(family_type, source)
    assert family.lora_layers() == [] == AdapterBank(family, AdapterFolders(Path("none")), 10**9).names


@pytest.mark.parametrize(
    ("family_type", "problem", "sample"), [param for param in SERVED if not param.values[0].has_lora]
)
def test_a_batch_equals_its_rows_one_by_one(
    family_type: type[Family], problem: type[Problem], sample: Sample, source: str
) -> None:
    family = load(family_type, source)
    inputs = four_inputs(family, problem, sample)
    outputs = family.predict(inputs, [None] * FOUR, NoBatchAdapters(), FeatureCache({}))
    for row, output in zip(inputs, outputs, strict=True):
        (alone,) = family.predict([row], [None], NoBatchAdapters(), FeatureCache({}))
        torch.testing.assert_close(numbers([output]), numbers([alone]), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("family_type", [family for family in family_types() if EmbedInput in family.inputs])
def test_an_encoder_embeds_every_modality_that_it_reads_and_recalls_the_vector(
    family_type: type[Family], source: str
) -> None:
    """The first content equals the third, and the second equals the fourth."""
    family, cache = load(family_type, source), FeatureCache({FEATURES: 10**6})
    for modality in sorted(family_type.modalities):
        any_content = EmbedInput(contents=(Content(modality=modality, text="to be replaced"),))
        questions = [made_of(any_content, number) for number in range(FOUR)]
        inputs = [family.prepare(question, read) for question in questions]
        outputs = family.predict(inputs, [None] * FOUR, NoBatchAdapters(), cache)
        assert outputs[0] == outputs[2] != outputs[1] == outputs[3]
        recalled = family.recall(questions[1], lambda media: digest(read(media)), None, NoBatchAdapters(), cache)
        assert family.answer(recalled, None, NoBatchAdapters(), cache) == outputs[1]


@pytest.mark.parametrize(("family_type", "problem", "sample"), TRAINED)
def test_augmentation_is_the_same_for_the_same_seed(
    family_type: type[Family], problem: type[Problem], sample: Sample, source: str
) -> None:
    family = load(family_type, source)
    inputs, targets = four_inputs(family, problem, sample), four_targets(problem, sample)
    with torch.no_grad():
        first_losses, second_losses = (
            family.loss(*family.augment(inputs, targets, torch.Generator().manual_seed(3))) for _ in range(2)
        )
    assert torch.equal(first_losses, second_losses)


@pytest.mark.parametrize("generator", [None, torch.Generator()], ids=["tested", "augmented"])
@pytest.mark.parametrize(("family_type", "problem", "sample"), SERVED)
def test_precomputed_inputs_give_the_same_answers(
    family_type: type[Family],
    problem: type[Problem],
    sample: Sample,
    source: str,
    generator: torch.Generator | None,
) -> None:
    family = load(family_type, source)
    inputs = four_inputs(family, problem, sample)
    precomputed = family.precompute(inputs, family.trained_layers(question_of(problem, sample)), generator)
    expected_outputs, outputs = (
        family.predict(batch, [None] * FOUR, NoBatchAdapters(), FeatureCache({}))
        for batch in (inputs, precomputed)
    )
    for expected, output in zip(expected_outputs, outputs, strict=True):
        torch.testing.assert_close(numbers([output]), numbers([expected]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("family_type", "problem", "sample"), TRAINED)
def test_an_adapter_on_the_layers_that_a_question_trains_changes_the_answer(
    family_type: type[Family], problem: type[Problem], sample: Sample, source: str, tmp_path: Path
) -> None:
    adapter_folders = AdapterFolders(tmp_path / "adapters")
    trained_layers = load(family_type, source).trained_layers(question_of(problem, sample))
    adapter = save_random_adapter(load(family_type, source), adapter_folders, "p1.v1", 4, trained_layers)
    family = load(family_type, source)
    assert set(trained_layers) <= set(family.lora_layers())
    bank, inputs = AdapterBank(family, adapter_folders, 10**9), four_inputs(family, problem, sample)
    before, after = (family.predict(inputs, [name] * FOUR, bank, FeatureCache({})) for name in (None, adapter))
    assert all(base != adapted for base, adapted in zip(before, after, strict=True))
