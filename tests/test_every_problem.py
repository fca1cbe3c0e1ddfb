"""What every problem must do; a new file in `lorabel/problems/` is covered by itself."""

import pytest

from lorabel import problems
from lorabel.discovery import discover
from lorabel.problems.base import Problem, Sample
from lorabel.problems.binding import bind

PROBLEMS = discover(problems, Problem)  # type: ignore[type-abstract]
SAMPLES = [
    pytest.param(kind, sample, id=f"{kind.name}{place}")
    for kind in PROBLEMS
    for place, sample in enumerate(kind.SAMPLES)
]


def bind_sample(sample: Sample) -> Problem:
    (binding,) = bind(sample.label_config).bindings
    return binding


@pytest.mark.parametrize("kind", PROBLEMS, ids=lambda kind: kind.name)
def test_a_problem_is_called_as_its_file_and_has_samples(kind: type[Problem]) -> None:
    assert kind.__module__.endswith(f".{kind.name}")
    assert kind.SAMPLES
    assert kind.zero_shot.endswith(".") and kind.learns.endswith(".")


@pytest.mark.parametrize(("kind", "sample"), SAMPLES)
def test_the_sample_is_claimed_by_its_own_problem_alone(kind: type[Problem], sample: Sample) -> None:
    assert type(bind_sample(sample)) is kind
    assert bind(sample.label_config).unclaimed == ()


@pytest.mark.parametrize(("kind", "sample"), SAMPLES)
def test_the_sample_task_becomes_the_declared_input_and_survives_the_wire(
    kind: type[Problem], sample: Sample
) -> None:
    question = bind_sample(sample).model_input(sample.data)
    assert type(question) is kind.input_type
    assert kind.input_type.model_validate(question.model_dump()) == question


@pytest.mark.parametrize(("kind", "sample"), SAMPLES)
def test_the_target_taken_as_a_perfect_output_gives_back_the_regions(kind: type[Problem], sample: Sample) -> None:
    binding = bind_sample(sample)
    perfect = binding.perfect_output(binding.target(sample.result, sample.data))
    assert type(perfect) is kind.output_type
    assert binding.prediction(perfect, sample.data).regions == sample.result
    assert binding.prediction(perfect, sample.data).score == 1.0


@pytest.mark.parametrize(("kind", "sample"), SAMPLES)
def test_every_region_passes_the_sdks_validation_and_carries_no_id(kind: type[Problem], sample: Sample) -> None:
    binding = bind_sample(sample)
    config = bind(sample.label_config).config
    perfect = binding.perfect_output(binding.target(sample.result, sample.data))
    for region in binding.prediction(perfect, sample.data).regions:
        assert config.find_region_errors(region) == []
        assert "id" not in region


@pytest.mark.parametrize(("kind", "sample"), SAMPLES)
def test_perfect_outputs_are_the_best_in_the_primary_figure(kind: type[Problem], sample: Sample) -> None:
    binding = bind_sample(sample)
    target = binding.target(sample.result, sample.data)
    metrics = binding.metrics([target], [binding.perfect_output(target)])
    assert metrics.values[metrics.primary] == binding.perfect_metric
