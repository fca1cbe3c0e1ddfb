"""Text in pictures in the workers: lines are kept with the features, and runs say that only the head learns."""

from collections.abc import Iterator
from datetime import timedelta

import pytest

from lorabel.database import projects, task_features, training_runs
from lorabel.database.store import Store
from lorabel.database.tables import Annotation, RunState
from lorabel.feature_contracts import Features
from lorabel.problems.text_in_pictures import TextInPictures
from lorabel.settings import Settings
from lorabel.space_contracts import TextLine
from tests.workers.events import START
from workers import finetune
from workers.services import Services

PROJECT = 1
SAMPLE = TextInPictures.SAMPLES[0]


@pytest.fixture
def services(settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Services]:
    services = Services.open(settings.model_copy(update={"model_server_url": "http://127.0.0.1:9"}))
    monkeypatch.setattr(Services, "current", lambda: services)
    projects.upsert(store, PROJECT, label_config=SAMPLE.label_config)
    yield services
    services.close()


def test_lines_are_stored_and_read_with_the_features_of_a_task(store: Store) -> None:
    lines = (TextLine(corners=(0.1, 0.2, 0.3, 0.4), text="Łódź 😀", probability=0.5),)
    read = Features(space="reader one", dim=0, float16="", lines=lines)
    projects.upsert(store, PROJECT, label_config=SAMPLE.label_config)
    task_features.write(store, PROJECT, "label", {1: "x", 2: "y"}, {1: read, 2: "no picture"})
    with store.read() as session:
        rows = task_features.read(session, PROJECT, "label", [1, 2])
    assert task_features.as_features(rows[1]) == read
    assert (rows[2].reason, rows[2].lines) == ("no picture", None)


def test_a_run_says_that_only_the_head_learns(services: Services, store: Store) -> None:
    with store.write() as session:
        for number in range(1, 9):
            session.add(
                Annotation(
                    id=number,
                    project_id=PROJECT,
                    task_id=number,
                    task_data=SAMPLE.data,
                    result=SAMPLE.result,
                    updated_at=START + timedelta(seconds=number),
                    times_applied=1,
                )
            )
    run = training_runs.request(store, PROJECT, "test")
    finetune.finetune(run.id)
    with store.read() as session:
        run = training_runs.get(session, PROJECT, run.id)
    assert (run.state, run.version_number) == (RunState.FINISHED, None)
    assert str(run.decision).startswith(
        "label: text_reader has no layers for LoRA: its head learns after every annotation"
    )
