"""Training runs that leave annotations for the next run, with the demo model and drawn pictures."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lorabel.database import projects, training_runs
from lorabel.database.store import Store
from lorabel.database.tables import Annotation
from lorabel.settings import Settings
from tests.workers.pictures import LABEL_CONFIG
from tests.workers.test_finetune import PROJECT, SOURCE, annotate, change, train, version_of
from workers import reading, selection
from workers.examples import is_held_out
from workers.services import Services

pytestmark = pytest.mark.slow
Limit = Callable[..., Settings]


@pytest.fixture
def limit(settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Limit]:
    """A function that lets runs have these limits, and returns all settings."""
    opened: list[Services] = []
    projects.upsert(store, PROJECT, label_config=LABEL_CONFIG)

    def set_limits(**limits: Any) -> Settings:
        model = {"models": {"dual_encoder": SOURCE}, "precision": "float32"}
        unreachable = {"model_server_url": "http://127.0.0.1:9", "evaluate_min_tasks": 5, "lora_towers": "text"}
        opened.append(Services.open(settings.model_copy(update={**model, **unreachable, **limits})))
        monkeypatch.setattr(Services, "current", lambda: opened[-1])
        return opened[-1].settings

    yield set_limits
    for services in opened:
        services.close()


def test_a_run_learns_from_a_limited_number_of_new_annotations_and_the_next_one_from_the_others(
    limit: Limit, store: Store
) -> None:
    settings = limit(train_max_annotations=30)
    annotate(store, 1, 45)
    first_run = train(store)
    assert version_of(store, first_run).trained_on == [i for i in range(1, 31) if not is_held_out(i, 20)]
    with store.read() as session:
        assert {row.id for row in session.query(Annotation) if row.run_id is None} == set(range(31, 46))
        assert {row.tries for row in session.query(Annotation)} == {0}
    (due,) = training_runs.request_due(store, settings)
    assert due.reason == "15 new annotations", "at once"
    assert set(range(31, 46)) - set(version_of(store, train(store)).trained_on) == {
        i for i in range(31, 46) if is_held_out(i, 20)
    }


def test_annotations_that_a_run_could_not_use_do_not_keep_others_waiting(limit: Limit, store: Store) -> None:
    settings = limit(train_max_annotations=20)
    annotate(store, 1, 40)
    for i in range(1, 21):
        change(store, i, task_data={"image": "http://127.0.0.1:9/x.png"})
    assert "nothing to learn from" in str(train(store).decision)
    with store.read() as session:
        assert {row.id: row.tries for row in session.query(Annotation)} == {i: int(i <= 20) for i in range(1, 41)}
    (due,) = training_runs.request_due(store, settings)
    assert due.reason == "20 new annotations", "not 40"
    assert version_of(store, train(store)).trained_on == [i for i in range(21, 41) if not is_held_out(i, 20)]


def test_what_has_no_room_in_the_memory_of_a_run_is_left_for_the_next(
    limit: Limit, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "EXAMPLES_AT_A_TIME", 4)
    monkeypatch.setattr(selection, "TEXT_SHARE", 100)
    # With both towers trained, decoded pictures stay in memory, and a megabyte has room for some of them.
    limit(train_memory_mb=1, lora_towers="both", train_steps=2)
    annotate(store, 1, 160)
    run = train(store)
    with store.read() as session:
        rows = list(session.query(Annotation))
    left = [row.id for row in rows if row.run_id is None and not row.tries]
    assert 30 < len(left) < 130
    assert set(version_of(store, run).trained_on).isdisjoint(left)
