"""Labels, spans, numbers and turns of a dialogue by a model that writes, in the real Label Studio: predicted,
corrected, learned, and right for unseen tasks."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from lorabel.families.generator import Generator
from lorabel.label_studio.client import LabelStudio
from lorabel.labeling import regions
from lorabel.labeling.regions import Region
from tests.e2e import test_every_problem_learns
from tests.e2e.courses import Course
from tests.e2e.label_studio_server import Server
from tests.e2e.lorabel_processes import Lorabel
from tests.e2e.test_every_problem_learns import NEVER, annotate, predictions, right_answers, train

pytestmark = [pytest.mark.e2e, pytest.mark.long, pytest.mark.timeout(1800)]

TEXT = '<Text name="text" value="$text"/>'
QUESTION = '<Text name="question" value="$question"/>'
WORDS = ("leak", "smoke", "dark")
TEAMS = dict(zip(WORDS, ("Pipes", "Fire", "Light"), strict=True))
# Of these the untaught model says that there are none.
SILENT_BEFORE = ("entities", "labelled span of the context")
CHOICES = "".join(f'<Choice value="{team}"/>' for team in TEAMS.values())
TASKS, UNSEEN = 60, 12


def _place(text: str, word: str) -> dict[str, Any]:
    start = text.index(word)
    return {"start": start, "end": start + len(word), "text": word}


# Label config, figure, and what is right for a text with a word in it.
KINDS: dict[str, tuple[str, str, Callable[[str, str], Region]]] = {
    "labels": (
        f'{TEXT}<Choices name="answer" toName="text">{CHOICES}</Choices>',
        "accuracy",
        lambda text, word: regions.choices("answer", "text", [TEAMS[word]]),
    ),
    "number": (
        f'{TEXT}<Number name="answer" toName="text" min="0" max="40" step="20"/>',
        "closeness",
        lambda text, word: regions.number("answer", "text", 20 * WORDS.index(word)),
    ),
    "entities": (
        f'{TEXT}<Labels name="answer" toName="text"><Label value="Problem"/></Labels>',
        "f1",
        lambda text, word: regions.labels("answer", "text", "labels", _place(text, word), ["Problem"]),
    ),
    "span of the context": (
        f'{QUESTION}{TEXT}<TextArea name="answer" toName="text" extractive="true"/>',
        "exact_match",
        lambda text, word: regions.textarea("answer", "text", [word]),
    ),
    "labelled span of the context": (
        f'{QUESTION}{TEXT}<Labels name="answer" toName="text" extractive="true"><Label value="A"/></Labels>',
        "f1",
        lambda text, word: regions.labels("answer", "text", "labels", _place(text, word), ["A"]),
    ),
    "dialogue": (
        '<Chat name="answer" value="$chat"/>',
        "exact_match",
        lambda text, word: regions.chat_message("answer", "assistant", TEAMS[word]),
    ),
}


@pytest.fixture(scope="module")
def lorabel(start_lorabel: Callable[..., Lorabel], tmp_path_factory: pytest.TempPathFactory) -> Lorabel:
    torch.manual_seed(0)
    return start_lorabel(
        {
            "TRAIN_AFTER_ANNOTATIONS": NEVER,
            "TRAIN_MIN_ANNOTATIONS": NEVER,
            "FAMILIES": "generator",
            "GENERATOR_PROBLEMS": "text_classification,named_entities,rating",
            "GENERATOR_MAX_NEW_TOKENS": "16",
            "MODEL_GENERATOR": Generator.tiny(tmp_path_factory.mktemp("tiny") / "model"),
            "LEARNING_RATE": "0.05",
            "TRAIN_STEPS": "120",
            "TRAIN_PATIENCE": "60",
            "PRECISION": "float32",
        }
    )


@pytest.mark.parametrize("kind", KINDS)
def test_unseen_tasks_are_answered_rightly_after_corrections(
    kind: str, lorabel: Lorabel, label_studio: Server, client: LabelStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(test_every_problem_learns, "TIMEOUT_S", 1200.0)
    config, figure, answer = KINDS[kind]
    tasks = []
    for number in range(TASKS + UNSEEN):
        word = WORDS[number % 3]
        text = f"x {word} {number}"
        data = {"text": text, "question": "What?", "chat": [{"role": "user", "content": f"{word} {number}"}]}
        tasks.append((data, [answer(text, word)]))
    course = Course(
        f"<View>{config}</View>",
        lambda: tasks,
        lambda _: {},
        {"answer": figure},
        UNSEEN,
        is_silent_before=kind in SILENT_BEFORE,
    )
    project_id, before = annotate(client, kind, course, lorabel, label_studio)
    run, versions = train(lorabel, project_id)
    assert versions and versions[0]["state"] == "live", run["decision"]
    candidate, live = (versions[0]["metrics"][side]["answer"] for side in ("candidate", "live"))
    assert candidate[figure] > live[figure]
    after = predictions(client, project_id, list(before), versions[0]["version"])
    right_before, right_after = (right_answers(course, list(answers.values())) for answers in (before, after))
    assert right_after >= 0.75 * UNSEEN > right_before, f"{right_before}, then {right_after} of {UNSEEN}"
