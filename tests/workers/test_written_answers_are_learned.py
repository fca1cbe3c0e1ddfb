"""What people answer is learned by a model that writes: labels, numbers, spans, the next turn of a dialogue."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch

from lorabel.database import projects
from lorabel.database.store import Store
from lorabel.database.tables import Annotation, VersionState
from lorabel.families.generator import Generator
from lorabel.labeling import regions
from lorabel.labeling.regions import Region
from lorabel.settings import Settings
from tests.workers.events import START
from tests.workers.test_finetune import PROJECT, train, version_of
from workers.services import Services

pytestmark = [pytest.mark.slow, pytest.mark.long]

TEXT = '<Text name="text" value="$text"/>'
QUESTION = '<Text name="question" value="$question"/>'
WORDS = ("leak", "smoke", "dark")
TEAMS = dict(zip(WORDS, ("Pipes", "Fire", "Light"), strict=True))
CHOICES = "".join(f'<Choice value="{team}"/>' for team in TEAMS.values())


def place(text: str, word: str) -> dict[str, Any]:
    start = text.index(word)
    return {"start": start, "end": start + len(word), "text": word}


# Label config, and what is right for a text such as "x 7 leak 3": of the word, and of the number before it.
KINDS: dict[str, tuple[str, Callable[[str, str, int], Region], str]] = {
    "one label": (
        f'<Choices name="answer" toName="text">{CHOICES}</Choices>',
        lambda text, word, number: regions.choices("answer", "text", [TEAMS[word]]),
        "accuracy",
    ),
    "several labels": (
        f'<Choices name="answer" toName="text" choice="multiple">{CHOICES}</Choices>',
        lambda text, word, number: regions.choices(
            "answer", "text", [TEAMS[word]] if number % 2 else sorted({TEAMS[word], "Fire"})
        ),
        "mean_f1",
    ),
    "a number": (
        '<Number name="answer" toName="text" min="0" max="9"/>',
        lambda text, word, number: regions.number("answer", "text", number),
        "mean_error",
    ),
    "a number without bounds": (
        '<Number name="answer" toName="text"/>',
        lambda text, word, number: regions.number("answer", "text", 10 * WORDS.index(word)),
        "mean_error",
    ),
    "spans": (
        '<Labels name="answer" toName="text"><Label value="Problem"/></Labels>',
        lambda text, word, number: regions.labels("answer", "text", "labels", place(text, word), ["Problem"]),
        "f1",
    ),
    "a span of the context": (
        QUESTION + '<TextArea name="answer" toName="text" extractive="true"/>',
        lambda text, word, number: regions.textarea("answer", "text", [word]),
        "rouge_l",
    ),
    "a labelled span of the context": (
        QUESTION + '<Labels name="answer" toName="text" extractive="true"><Label value="Answer"/></Labels>',
        lambda text, word, number: regions.labels("answer", "text", "labels", place(text, word), ["Answer"]),
        "f1",
    ),
    "a turn of a dialogue": (
        '<Chat name="answer" value="$chat"/>',
        lambda text, word, number: regions.chat_message("answer", "assistant", TEAMS[word]),
        "rouge_l",
    ),
}


@pytest.fixture
def services(
    settings: Settings, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Services]:
    torch.manual_seed(0)
    changed = {
        "models": {"generator": Generator.tiny(tmp_path / "base")},
        "precision": "float32",
        "model_server_url": "http://127.0.0.1:9",
        "evaluate_min_tasks": 5,
        "generator_max_new_tokens": 16,
        "generator_problems": "text_classification, rating,named_entities",
        "learning_rate": 5e-2,
        "train_steps": 120,
        "train_patience": 60,
    }
    services = Services.open(settings.model_copy(update=changed))
    monkeypatch.setattr(Services, "current", lambda: services)
    yield services
    services.close()


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_learns_what_people_answer(services: Services, store: Store, kind: str) -> None:
    control, answer, _ = KINDS[kind]
    projects.upsert(store, PROJECT, label_config=f"<View>{TEXT}{control}</View>")
    with store.write() as session:
        for number in range(1, 49):
            word, digit = WORDS[number % 3], number * 7 % 10
            text = f"x {digit} {word} {number}"
            chat = [{"role": "user", "content": word}]
            session.add(
                Annotation(
                    id=number,
                    project_id=PROJECT,
                    task_id=number,
                    task_data={"text": text, "question": "What?", "chat": chat},
                    result=[answer(text, word, digit)],
                    updated_at=START + timedelta(seconds=number),
                    times_applied=1,
                )
            )
    run = train(store)
    version = version_of(store, run)
    assert version.state == VersionState.LIVE, run.decision
