"""What annotators write is learned by a run, and becomes live if it is better on tasks that nobody trained on."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import torch

from lorabel.database import projects
from lorabel.database.store import Store
from lorabel.database.tables import Annotation, VersionState
from lorabel.families.generation.tiny_models import write_language_model, write_vision_language_model
from lorabel.inference.prediction import ProjectModel
from lorabel.labeling import regions
from lorabel.settings import Settings
from tests.e2e.courses import data_url
from tests.plain_pictures import COLOUR_WORDS, plain_picture
from tests.workers.events import START
from tests.workers.test_finetune import PROJECT, train, version_of
from workers.services import Services

CONFIG = (
    '<View><Text name="ticket" value="$ticket"/>'
    '<TextArea name="team" toName="ticket" placeholder="Which team?"/></View>'
)
PICTURE_CONFIG = (
    '<View><Image name="photo" value="$photo"/>'
    '<TextArea name="colour" toName="photo" placeholder="Which colour is it?"/></View>'
)
TEAMS = {"leak": "Pipes", "smoke": "Fire", "dark": "Light"}


@pytest.fixture
def services(
    settings: Settings, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Services]:
    torch.manual_seed(0)
    changed = {
        "models": {"generator": write_language_model(tmp_path / "base")},
        "precision": "float32",
        "model_server_url": "http://127.0.0.1:9",
        "evaluate_min_tasks": 5,
        "generator_max_new_tokens": 12,
        "learning_rate": 5e-2,
    }
    services = Services.open(settings.model_copy(update=changed))
    monkeypatch.setattr(Services, "current", lambda: services)
    projects.upsert(store, PROJECT, label_config=CONFIG)
    yield services
    services.close()


def annotate(store: Store, count: int) -> None:
    """Tickets such as "leak 7", in turn of each team. One is left empty."""
    with store.write() as session:
        for number in range(1, count + 1):
            word = list(TEAMS)[number % 3]
            answer = [] if number == 1 else [regions.textarea("team", "ticket", [TEAMS[word]])]
            session.add(
                Annotation(
                    id=number,
                    project_id=PROJECT,
                    task_id=number,
                    task_data={"ticket": f"{word} {number}"},
                    result=answer,
                    updated_at=START + timedelta(seconds=number),
                    times_applied=1,
                )
            )


@pytest.mark.slow
def test_a_run_learns_what_annotators_write_and_an_empty_answer_is_left_out_with_a_reason(
    services: Services, store: Store
) -> None:
    annotate(store, 40)
    run = train(store)
    version = version_of(store, run)
    candidate, live = (version.metrics[side]["team"] for side in ("candidate", "live"))
    assert live["exact_match"] == 0 and candidate["exact_match"] >= 0.8, run.decision
    assert version.state == VersionState.LIVE, run.decision
    assert str(run.decision).startswith("team: rouge_l")
    assert run.metrics["skipped"]["team"] == {"1": "'team' was left empty: there is no text to learn from"}
    assert not run.metrics["live"]["team"]["token_f1"] > 0.2
    with store.read() as session:
        project = projects.get(session, PROJECT)
        model = ProjectModel.of(session, project, services.settings)
    assert model.offsets["team"] > 0, "most held-out texts are right"


@pytest.mark.slow
def test_a_run_learns_what_annotators_write_about_pictures_and_a_broken_one_is_left_out_with_a_reason(
    services: Services, store: Store, tmp_path: Path
) -> None:
    services.settings.models["generator"] = write_vision_language_model(tmp_path / "vision")
    projects.upsert(store, PROJECT, label_config=PICTURE_CONFIG)
    with store.write() as session:
        for number in range(1, 41):
            colour = list(COLOUR_WORDS)[number % 3]
            file = b"no picture" if number == 1 else plain_picture(colour, number)
            answer = [regions.textarea("colour", "photo", [COLOUR_WORDS[colour]])]
            session.add(
                Annotation(
                    id=number,
                    project_id=PROJECT,
                    task_id=number,
                    task_data={"photo": data_url(file, "image/png")},
                    result=answer,
                    updated_at=START + timedelta(seconds=number),
                    times_applied=1,
                )
            )
    run = train(store)
    version = version_of(store, run)
    candidate, live = (version.metrics[side]["colour"] for side in ("candidate", "live"))
    assert live["exact_match"] == 0 and candidate["exact_match"] >= 0.8, run.decision
    assert version.state == VersionState.LIVE, run.decision
    assert "no readable picture" in str(run.metrics["skipped"])
