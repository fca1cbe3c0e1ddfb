"""Trained on a picture and a text together, a model is better than trained on either of them alone."""

import base64

import pytest
import torch

from lorabel.contracts import LabelsInput, MediaRef, Modality
from lorabel.demo import MODEL_FOLDER
from lorabel.families.dual_encoder import DualEncoder
from lorabel.problems.base import Problem
from lorabel.problems.binding import bind
from lorabel.settings import Settings
from tests.e2e.courses.image_text import COURSE
from workers import evaluate, examples, lora

SETTINGS = Settings(train_steps=40)
BATCH = 64


@pytest.fixture(scope="module")
def family() -> DualEncoder:
    return DualEncoder.load(f"local-dir:{MODEL_FOLDER}", torch.device("cpu"), torch.float32, SETTINGS)


def training_examples(problem: Problem, modalities: set[Modality]) -> list[examples.TrainingExample]:
    """The course's tasks, with only the contents of these modalities."""
    examples_of_course = []
    for number, (data, result) in enumerate(COURSE.tasks):
        question, target = problem.model_input(data), problem.target(result, data)
        assert isinstance(question, LabelsInput)
        contents = tuple(content for content in question.contents if content.modality in modalities)
        question = question.model_copy(update={"contents": contents})
        examples_of_course.append(
            examples.TrainingExample((number,), number, question, target, problem.class_of(target), True)
        )
    return examples_of_course


def fetch(media: MediaRef) -> bytes:
    return base64.b64decode(media.url.partition(",")[2])


def accuracy(family: DualEncoder, modalities: set[Modality]) -> float:
    """The accuracy on held-out tasks, after training on the other tasks."""
    (problem,) = bind(COURSE.label_config).bindings
    to_prepare = training_examples(problem, modalities)
    prepared, unreadable = examples.prepare(to_prepare, family, lambda media: media, fetch)
    assert not unreadable
    train, held_out = (
        [
            example
            for example in prepared
            if examples.is_held_out(example.training_example.task_id, 20) == is_held_out
        ]
        for is_held_out in (False, True)
    )
    recipe = lora.Recipe.from_settings(SETTINGS, "float32")
    with lora.adapted(family, prepared[0].training_example.question, None, recipe) as model:
        train = lora.precompute(family, model, train, torch.Generator())
        held_out = lora.precompute(family, model, held_out, None)
        lora.fine_tune(family, model, train, recipe, lambda progress: None)
        return float(evaluate.score(problem, family, held_out, BATCH).values["accuracy"])


@pytest.mark.long
@pytest.mark.slow
def test_both_modalities_together_are_better_than_either_alone(family: DualEncoder) -> None:
    fused, picture, text = (
        accuracy(family, modalities)
        for modalities in ({Modality.IMAGE, Modality.TEXT}, {Modality.IMAGE}, {Modality.TEXT})
    )
    assert fused >= 0.9, "a colour and a word name one of four labels"
    assert max(picture, text) <= 0.7, "each alone leaves two labels open"
