"""Runs where a fitted head answers and LoRA could change none of its answers, and what is due after them."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from lorabel.database import project_heads, projects, training_runs
from lorabel.database.store import Store
from lorabel.database.tables import Annotation, ProjectHead, RunState
from lorabel.demo import MODEL_FOLDER
from lorabel.families.token_classifier import TokenClassifier
from lorabel.settings import Settings
from tests.workers.events import START
from tests.workers.test_finetune import PROJECT, train
from workers.services import Services

HEAD_ALONE = "the head answers; LoRA would change none of its answers, so none is trained"
NAMES = ("Ada", "Grace", "Alan", "Edsger")
SPANS = """<View><Text name="text" value="$text"/>
<Labels name="entity" toName="text"><Label value="person"/></Labels></View>"""


@pytest.fixture
def services(
    settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Services]:
    models = {
        "token_classifier": TokenClassifier.tiny(tmp_path / "model"),
        "dual_encoder": f"local-dir:{MODEL_FOLDER}",
    }
    changed = {
        "models": models,
        "precision": "float32",
        "model_server_url": "http://127.0.0.1:9",
        "train_steps": 2,
    }
    services = Services.open(settings.model_copy(update=changed))
    monkeypatch.setattr(Services, "current", lambda: services)
    yield services
    services.close()


def test_no_lora_is_trained_for_spans_that_a_head_answers(services: Services, store: Store) -> None:
    annotate_names(store, 20)
    have_a_head(store, annotation_ids=list(range(1, 21)))
    run = train(store)
    assert (run.state, run.version_number) == (RunState.FINISHED, None)
    assert run.decision == f"entity: {HEAD_ALONE}; the next run waits for 25 annotations"
    with store.read() as session:
        assert projects.get(session, PROJECT).live_version == "p1.v0", "the name of the version stays, too"
    annotate_names(store, 4, first=21)
    assert training_runs.request_due(store, services.settings) == []


def test_lora_is_trained_for_spans_while_no_head_answers(services: Services, store: Store) -> None:
    annotate_names(store, 20)
    run = train(store)
    assert run.version_number == 1, run.decision


def test_an_adapter_that_knows_more_than_the_head_is_trained_on(services: Services, store: Store) -> None:
    annotate_names(store, 20)
    run = train(store)
    with store.write() as session:  # what a promotion by a person does
        project = projects.get(session, PROJECT)
        project.live_number = run.version_number or 0
    have_a_head(store, annotation_ids=[1, 2])
    assert train(store).version_number == 2, (
        "the head has learned from less than half as many, so it does not answer"
    )


def annotate_names(store: Store, count: int, first: int = 1) -> None:
    projects.upsert(store, PROJECT, label_config=SPANS)
    with store.write() as session:
        for number in range(first, first + count):
            name = NAMES[number % len(NAMES)]
            value = {"start": 0, "end": len(name), "text": name, "labels": ["person"]}
            session.add(
                Annotation(
                    id=number,
                    project_id=PROJECT,
                    task_id=number,
                    task_data={"text": f"{name} wrote program {number}."},
                    result=[{"from_name": "entity", "to_name": "text", "type": "labels", "value": value}],
                    updated_at=START + timedelta(seconds=number),
                    times_applied=1,
                )
            )


def have_a_head(store: Store, annotation_ids: list[int]) -> None:
    """Have a head answer for the control tag; its file is not read here."""
    head = ProjectHead(
        project_id=PROJECT,
        from_name="entity",
        folder="p1.h1",
        labels="",
        digest="",
        annotation_ids=annotation_ids,
        fitted_at=START,
    )
    with store.write() as session:
        project = projects.get(session, PROJECT)
        project_heads.replace(session, project, {"entity": head}, 1)
        project.head_config = project.label_config
