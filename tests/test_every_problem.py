"""What every problem must do, checked on its samples.

The tests find problems as Lorabel does, so a new file in `lorabel/problems/` needs no change here.
"""

from collections.abc import Iterator
from typing import Any

import pytest

from lorabel.errors import MissingTargetError, UnreadableError
from lorabel.labeling.example_data import example_data
from lorabel.labeling.image_regions import image_region
from lorabel.labeling.label_config import RELATIONS_NAME
from lorabel.labeling.regions import Region, textarea
from lorabel.labeling.regions import labels as labelled
from lorabel.labeling.results import is_same_result
from lorabel.problems.base import Problem, Sample
from lorabel.problems.binding import bind, problem_types
from tests.samples import binding_of

PROBLEMS = problem_types()
SAMPLES = [
    pytest.param(problem, sample, id=f"{problem.name}{index}")
    for problem in PROBLEMS
    for index, sample in enumerate(problem.SAMPLES)
]


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)
def test_a_problem_has_the_name_of_its_file_samples_and_sentences_for_the_docs(problem: type[Problem]) -> None:
    assert problem.__module__.endswith(f".{problem.name}")
    assert problem.SAMPLES
    assert problem.zero_shot.endswith(".") and problem.learns.endswith(".")


@pytest.mark.parametrize(("problem", "sample"), SAMPLES)
def test_a_sample_is_served_by_its_own_problem_and_every_control_tag_by_some(
    problem: type[Problem], sample: Sample
) -> None:
    assert binding_of(problem, sample)
    assert bind(sample.label_config).unclaimed == ()


@pytest.mark.parametrize(("problem", "sample"), SAMPLES)
def test_a_sample_becomes_an_input_of_the_declared_type_that_survives_serialization(
    problem: type[Problem], sample: Sample
) -> None:
    question = binding_of(problem, sample).model_input(sample.data)
    assert type(question) is problem.input_type
    assert problem.input_type.model_validate(question.model_dump()) == question


@pytest.mark.parametrize(("problem", "sample"), SAMPLES)
def test_example_data_asks_the_same_kind_of_question_about_the_same_modalities(
    problem: type[Problem], sample: Sample
) -> None:
    binding = binding_of(problem, sample)
    example = binding.model_input(example_data(bind(sample.label_config).config))
    question = binding.model_input(sample.data)
    assert (type(example), example.modalities) == (type(question), question.modalities)


@pytest.mark.parametrize(("problem", "sample"), SAMPLES)
def test_the_perfect_output_for_a_target_gives_the_regions_that_it_came_from(
    problem: type[Problem], sample: Sample
) -> None:
    binding = binding_of(problem, sample)
    perfect = binding.perfect_output(binding.target(sample.result, sample.data))
    assert type(perfect) is problem.output_type
    expected = [
        region
        for region in sample.result
        if not binding.is_per_region or region.get("from_name", RELATIONS_NAME) in binding.claims
    ]
    assert binding.prediction(perfect, sample.data).regions == expected
    assert binding.prediction(perfect, sample.data).score == 1.0


@pytest.mark.parametrize(("problem", "sample"), SAMPLES)
def test_the_opposite_result_has_another_target(problem: type[Problem], sample: Sample) -> None:
    binding = binding_of(problem, sample)
    assert binding.target(sample.opposite, sample.data) != binding.target(sample.result, sample.data)


@pytest.mark.parametrize(("problem", "sample"), SAMPLES)
def test_a_single_target_is_its_own_aggregate(problem: type[Problem], sample: Sample) -> None:
    binding = binding_of(problem, sample)
    target = binding.target(sample.result, sample.data)
    assert binding.aggregate([target]) == target


@pytest.mark.parametrize(("problem", "sample"), SAMPLES)
def test_a_perfect_output_is_most_certain_of_what_is_true(problem: type[Problem], sample: Sample) -> None:
    binding = binding_of(problem, sample)
    target = binding.target(sample.result, sample.data)
    perfect = binding.perfect_output(target)
    cases = binding.cases(perfect, target)
    assert bool(cases) is bool(binding.distributions(perfect))
    for case in cases:
        assert case.distribution[case.true_index] == max(case.distribution)


@pytest.mark.parametrize(("problem", "sample"), SAMPLES)
def test_every_region_passes_the_sdks_validation_and_has_an_id_only_in_a_group(
    problem: type[Problem], sample: Sample
) -> None:
    """The editor makes one region of those of a group, and several of other regions with one id.

    An answer about a region has the id of that region, which another binding predicts.
    """
    binding = binding_of(problem, sample)
    config = bind(sample.label_config).config
    perfect = binding.perfect_output(binding.target(sample.result, sample.data))
    tags_by_id: dict[str, list[str]] = {}
    for region in binding.prediction(perfect, sample.data).regions:
        assert config.find_region_errors(region) == []
        if "id" in region:
            assert len(binding.claims) > 1 or binding.is_per_region
            tags_by_id.setdefault(region["id"], []).append(region["from_name"])
    assert all(len(tags) == len(set(tags)) for tags in tags_by_id.values())
    assert binding.is_per_region or all(len(tags) > 1 for tags in tags_by_id.values())


@pytest.mark.parametrize(("problem", "sample"), SAMPLES)
def test_a_perfect_output_has_the_best_value_of_the_primary_metric(problem: type[Problem], sample: Sample) -> None:
    binding = binding_of(problem, sample)
    target = binding.target(sample.result, sample.data)
    metrics = binding.metrics([target], [binding.perfect_output(target)])
    assert metrics.values[metrics.primary] == binding.perfect_metric


ODD_VALUES = (None, True, "odd", -1, 1e400, float("nan"), 10**400, [], [None], [[None]], {}, {"odd": None})


def with_odd_parts(value: Any) -> Iterator[Any]:
    """Copies of a JSON value with each part of it, and the value itself, replaced by each odd value."""
    yield from ODD_VALUES
    if isinstance(value, dict):
        for key, part in value.items():
            yield from ({**value, key: odd} for odd in with_odd_parts(part))
    elif isinstance(value, list):
        for index, part in enumerate(value):
            yield from ([*value[:index], odd, *value[index + 1 :]] for odd in with_odd_parts(part))


@pytest.mark.parametrize(("problem", "sample"), SAMPLES)
def test_a_result_with_an_odd_part_has_a_target_or_a_reason(problem: type[Problem], sample: Sample) -> None:
    """Label Studio stores and imports results without checking them."""
    binding = binding_of(problem, sample)
    for odd_result in with_odd_parts(sample.result):
        try:
            binding.target(odd_result, sample.data)
        except (MissingTargetError, UnreadableError) as error:
            assert str(error)


def explaining_tags(sample: Sample) -> tuple[str, list[Region]]:
    """A control tag for explanations on each object tag that a person may mark, and a region of each."""
    tags, regions = "", []
    objects = {tag.name: tag for control in bind(sample.label_config).config.controls for tag in control.objects}
    for index, tag in enumerate(tag for tag in objects.values() if tag.tag != "Chat"):
        name, labels = f"lorabel_why_{index}", '<Label value="for"/><Label value="against"/>'
        tags += f'<TextArea name="{name}" toName="{tag.name}"/>'
        regions.append(textarea(name, tag.name, ["because it is so"]))
        name = f"lorabel_why_marks_{index}"
        if tag.tag == "Image":
            tags += f'<RectangleLabels name="{name}" toName="{tag.name}">{labels}</RectangleLabels>'
            label = {"rectanglelabels": ["for"]}
            regions.append(image_region(name, tag.name, "rectanglelabels", (0.1, 0.1, 0.5, 0.5), (9, 9), label))
        elif tag.tag == "Text":
            tags += f'<Labels name="{name}" toName="{tag.name}">{labels}</Labels>'
            regions.append(labelled(name, tag.name, "labels", {"start": 0, "end": 2, "text": "Th"}, ["for"]))
    return tags, regions


def learned(binding: Problem, result: list[Region], sample: Sample) -> Any:
    """The target of a result, or why it has none."""
    try:
        return binding.target(result, sample.data)
    except MissingTargetError as error:
        return str(error)


@pytest.mark.parametrize(("problem", "sample"), SAMPLES)
def test_control_tags_for_explanations_are_neither_served_nor_learned_nor_an_answer(
    problem: type[Problem], sample: Sample
) -> None:
    tags, explaining = explaining_tags(sample)
    start, view, rest = sample.label_config.partition("<View>")
    explained = bind(f"{start}{view}{tags}{rest}")
    plain = bind(sample.label_config)
    assert explained.bindings == plain.bindings
    assert all("EXPLAIN_IN" in unclaimed.reason for unclaimed in explained.unclaimed)
    assert len(explained.unclaimed) == len(explaining)
    assert [error for region in explaining for error in explained.config.find_region_errors(region)] == []
    (binding,) = (each for each in explained.bindings if type(each) is problem)
    with_explanations = [*explaining, *sample.result]
    assert learned(binding, with_explanations, sample) == learned(binding, sample.result, sample)
    assert learned(binding, explaining, sample) == learned(binding, [], sample)
    assert is_same_result(with_explanations, sample.result)
    assert not is_same_result(with_explanations, sample.opposite)
