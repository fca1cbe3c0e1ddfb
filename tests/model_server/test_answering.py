"""Who would answer a kind of question, with the real families; none of them is loaded."""

import pytest

from lorabel.families.loading import family_for
from lorabel.inference.messages import FamilyPart, FamilyQuestion
from lorabel.problems.base import Problem
from lorabel.problems.binding import problem_types
from lorabel.settings import Settings
from model_server.answering import answering_family
from tests.samples import binding_of

SETTINGS = Settings(models={"dual_encoder": "hf-hub:mine/own"})
PROBLEMS = problem_types()


def parts(kind: str, *modalities: str) -> list[FamilyPart]:
    question = FamilyQuestion.model_validate({"kind": kind, "modalities": modalities})
    return answering_family(question, SETTINGS, {"detector": "local-dir:loaded"}).parts


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)
def test_the_family_of_every_problem_is_the_one_that_answers(problem: type[Problem]) -> None:
    question = binding_of(problem, problem.SAMPLES[0]).model_input(problem.SAMPLES[0].data)
    family = family_for(question)
    answering = parts(question.kind, *question.modalities)
    assert [part.family for part in answering] == [part.name for part in family.part_types or (family,)]


def test_the_source_is_what_is_loaded_or_what_the_settings_name_or_the_default() -> None:
    assert parts("labels", "image") == [
        FamilyPart(family="dual_encoder", source="hf-hub:mine/own", is_loaded=False)
    ]
    detector, segmenter = parts("labelled_masks", "image")
    assert detector == FamilyPart(family="detector", source="local-dir:loaded", is_loaded=True)
    assert (segmenter.family, segmenter.is_loaded) == ("segmenter", False)
    assert segmenter.source.startswith("hf-hub:")


def test_a_server_that_writes_is_named_with_its_address() -> None:
    settings = Settings(generator_url="http://writer.test:8000", generator_model="writes")
    question = FamilyQuestion.model_validate({"kind": "text", "modalities": ["text"]})
    (part,) = answering_family(question, settings, {}).parts
    assert (part.family, part.source) == ("generator", "writes at http://writer.test:8000")


@pytest.mark.parametrize(("kind", "modality"), [("nothing", "text"), ("spans", "video")])
def test_a_question_that_nobody_answers_has_a_reason(kind: str, modality: str) -> None:
    question = FamilyQuestion.model_validate({"kind": kind, "modalities": [modality]})
    answer = answering_family(question, SETTINGS, {})
    assert answer.parts == [] and answer.fault is not None and kind in answer.fault
