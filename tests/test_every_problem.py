"""What every problem must do; a new file in `lorabel/problems/` is covered by itself."""

import pytest

from lorabel import problems
from lorabel.discovery import discover
from lorabel.problems import Problem, bind

PROBLEMS = discover(problems, Problem)  # type: ignore[type-abstract]


def bind_sample(kind: type[Problem]) -> Problem:
    (binding,) = bind(kind.SAMPLE.label_config).bindings
    return binding


def test_there_are_problems() -> None:
    assert PROBLEMS


@pytest.mark.parametrize("kind", PROBLEMS)
def test_the_sample_is_claimed_by_its_own_problem_alone(kind: type[Problem]) -> None:
    assert type(bind_sample(kind)) is kind
    assert bind(kind.SAMPLE.label_config).unclaimed == ()


@pytest.mark.parametrize("kind", PROBLEMS)
def test_the_sample_task_becomes_the_declared_input_and_survives_the_wire(kind: type[Problem]) -> None:
    question = bind_sample(kind).model_input(kind.SAMPLE.data)
    assert type(question) is kind.input_type
    assert kind.input_type.model_validate(question.model_dump()) == question


@pytest.mark.parametrize("kind", PROBLEMS)
def test_the_target_taken_as_a_perfect_output_gives_back_the_regions(kind: type[Problem]) -> None:
    binding = bind_sample(kind)
    perfect = binding.perfect_output(binding.target(kind.SAMPLE.result))
    assert type(perfect) is kind.output_type
    assert binding.prediction(perfect).regions == kind.SAMPLE.result
    assert binding.prediction(perfect).score == 1.0


@pytest.mark.parametrize("kind", PROBLEMS)
def test_every_region_passes_the_sdks_validation_and_carries_no_id(kind: type[Problem]) -> None:
    binding = bind_sample(kind)
    config = bind(kind.SAMPLE.label_config).config
    for region in binding.prediction(binding.perfect_output(binding.target(kind.SAMPLE.result))).regions:
        assert config.find_region_errors(region) == []
        assert "id" not in region


@pytest.mark.parametrize("kind", PROBLEMS)
def test_perfect_outputs_score_one_in_the_primary_figure(kind: type[Problem]) -> None:
    binding = bind_sample(kind)
    target = binding.target(kind.SAMPLE.result)
    metrics = binding.metrics([target], [binding.perfect_output(target)])
    assert metrics.values[metrics.primary] == 1.0
