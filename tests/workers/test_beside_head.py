"""Runs that train LoRA beside a fitted head, with the demo model and drawn pictures."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lorabel.database import projects, training_runs
from lorabel.database.store import Store
from lorabel.database.tables import Annotation
from lorabel.settings import Settings
from tests.workers.pictures import LABEL_CONFIG
from tests.workers.test_finetune import PROJECT, SOURCE, annotate, train
from workers.services import Services

pytestmark = pytest.mark.slow
Open = Callable[..., Services]


@pytest.fixture
def open_services(settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    """A function that opens the services of runs with some settings."""
    opened: list[Services] = []
    projects.upsert(store, PROJECT, label_config=LABEL_CONFIG)

    def open_with(**changed: Any) -> Services:
        model = {"models": {"dual_encoder": SOURCE}, "precision": "float32", "model_server_url": "http://127.0.0.1:9"}
        opened.append(Services.open(settings.model_copy(update={**model, **changed})))
        monkeypatch.setattr(Services, "current", lambda: opened[-1])
        return opened[-1]

    yield open_with
    for services in opened:
        services.close()


def test_too_few_tasks_end_a_run_that_nobody_asked_for(open_services: Open, store: Store) -> None:
    open_services(lora_min_tasks=80)
    annotate(store, 1, 20)
    run = train(store, "20 new annotations")
    assert run.version_number is None
    assert run.decision == "grade: the head answers; LoRA begins at 80 tasks (LORA_MIN_TASKS), 20 are annotated"
    with store.read() as session:
        assert {row.run_id for row in session.query(Annotation)} == {None}, "they are new for the run that can"
    assert training_runs.request_due(store, Settings()) == []


def test_a_run_that_is_better_than_the_head_alone_becomes_live_and_its_features_are_kept(
    open_services: Open, store: Store
) -> None:
    """Which way a picture's grade depends on its shape and size together: the base model knows no word for it."""
    services = open_services(lora_min_tasks=40)
    grade_of = lambda i, picture: f"Grade {'ABC'[(len(picture.shape) + (picture.size == 'large')) % 3]}"  # noqa: E731
    annotate(store, 1, 90, grade_of)
    run = train(store, "90 new annotations")
    print(run.decision, run.error)
