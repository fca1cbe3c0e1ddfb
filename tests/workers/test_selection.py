"""What a run reads of a project: new annotations, held-out tasks, and tasks for the replay, each with a limit."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event

from lorabel.database import projects, training_runs
from lorabel.database.store import Store
from lorabel.database.tables import Annotation, ModelVersion, VersionState
from lorabel.settings import Settings
from tests.workers.events import START
from workers.annotated_tasks import _states
from workers.examples import is_held_out
from workers.selection import Selection, select_annotations

PROJECT = 1


@pytest.fixture(autouse=True)
def project(store: Store) -> None:
    projects.upsert(store, PROJECT)
    projects.upsert(store, 2)


def annotate(store: Store, *ids: int, **columns: Any) -> None:
    """Add annotations; annotation i is of task i and arrived in second i."""
    with store.write() as session:
        for i in ids:
            given = {"project_id": PROJECT, "task_id": i, "task_data": {"text": "x"}, "result": [], **columns}
            session.add(Annotation(id=i, received_at=START + timedelta(seconds=i), **given))


def select(store: Store, settings: Settings, seed: int = 1, **changed: Any) -> Selection:
    with store.read() as session:
        of_project = projects.get(session, PROJECT)
        return select_annotations(session, of_project, settings.model_copy(update=changed), seed)


def ids_of(selection: Selection) -> list[int]:
    return sorted(annotation.id for annotation in selection.annotations)


def test_a_run_reads_at_most_the_limit_of_new_annotations_and_those_that_waited_longest(
    store: Store, settings: Settings
) -> None:
    annotate(store, *range(1, 101))
    assert ids_of(select(store, settings, train_max_annotations=30)) == list(range(1, 31))


def test_annotations_that_no_run_has_read_come_before_those_that_runs_could_not_use(
    store: Store, settings: Settings
) -> None:
    annotate(store, 1, 2, 3, tries=2)
    annotate(store, 4, 5, tries=1)
    annotate(store, 6, 7)
    assert ids_of(select(store, settings, train_max_annotations=1)) == [6]
    assert ids_of(select(store, settings, train_max_annotations=3)) == [4, 6, 7]
    assert ids_of(select(store, settings, train_max_annotations=5)) == [1, 4, 5, 6, 7]


def test_skipped_deleted_and_foreign_annotations_are_not_read(store: Store, settings: Settings) -> None:
    annotate(store, 1, was_cancelled=True)
    annotate(store, 2, is_deleted=True)
    annotate(store, 3, project_id=2)
    annotate(store, 4, 5, run_id=1, is_deleted=True)
    assert ids_of(select(store, settings)) == []


def test_a_task_is_read_with_all_of_its_annotations(store: Store, settings: Settings) -> None:
    """Its target is made from the answers of all annotators."""
    annotate(store, 1, 2, 3, task_id=7, run_id=1)
    annotate(store, 4, task_id=7)
    annotate(store, 5, 6)
    limits = {"train_max_annotations": 1, "replay_annotations": 0, "held_out_percent": 0}
    assert ids_of(select(store, settings, **limits)) == [1, 2, 3, 4]


def test_an_annotation_without_a_task_is_read_so_that_the_run_can_say_why_it_is_skipped(
    store: Store, settings: Settings
) -> None:
    annotate(store, 1, task_id=None)
    assert ids_of(select(store, settings)) == [1]


def test_of_the_held_out_tasks_the_newest_are_read(store: Store, settings: Settings) -> None:
    annotate(store, *range(1, 301), run_id=1)
    held_out = [i for i in range(1, 301) if is_held_out(i, 20)]
    limits = {"evaluate_max_tasks": 10, "replay_annotations": 0}
    assert ids_of(select(store, settings, **limits)) == held_out[-10:]
    assert ids_of(select(store, settings, evaluate_max_tasks=500, replay_annotations=0)) == held_out


def test_a_small_project_is_read_as_a_whole(store: Store, settings: Settings) -> None:
    annotate(store, *range(1, 200), run_id=1)
    annotate(store, *range(200, 210))
    assert ids_of(select(store, settings)) == list(range(1, 210))


def test_what_a_replay_chooses_from_is_limited_and_spread_over_a_large_project(
    store: Store, settings: Settings
) -> None:
    annotate(store, *range(1, 2001), run_id=1)
    limits = {"replay_annotations": 40, "evaluate_max_tasks": 1}
    pool = [i for i in ids_of(select(store, settings, **limits)) if not is_held_out(i, 20)]
    assert 100 <= len(pool) <= 200
    quarters = [sum(500 * quarter < i <= 500 * (quarter + 1) for i in pool) for quarter in range(4)]
    assert min(quarters) >= 15, quarters
    assert ids_of(select(store, settings, **limits)) == ids_of(select(store, settings, **limits)), "same seed"
    assert ids_of(select(store, settings, **limits)) != ids_of(select(store, settings, seed=2, **limits))


def test_what_the_live_version_was_trained_on_is_in_the_pool(store: Store, settings: Settings) -> None:
    """Its own replay was balanced by class: so a rare class is not forgotten."""
    annotate(store, *range(1, 2001), run_id=1)
    rare = [i for i in range(1, 400) if not is_held_out(i, 20)][:20]
    with store.write() as session:
        projects.get(session, PROJECT).live_number = 3
        empty: dict[str, Any] = {"base_models": {}, "adapters": {}, "metrics": {}}
        session.add(
            ModelVersion(
                project_id=PROJECT, number=3, parent=0, state=VersionState.LIVE, trained_on=[*rare, 10**6], **empty
            )
        )
    assert set(rare) <= set(ids_of(select(store, settings, replay_annotations=40)))


def test_a_task_that_is_too_large_for_the_memory_is_skipped_and_others_are_read(
    store: Store, settings: Settings
) -> None:
    annotate(store, 1, task_data={"text": "x" * 200_000})
    annotate(store, 2, 3)
    annotate(store, 4, 5, task_data={"text": "x" * 100_000})
    selection = select(store, settings, train_memory_mb=1)
    assert ids_of(selection) == [2, 3, 4], "5 fits into the memory of the next run"
    assert selection.is_partial
    assert not select(store, settings, train_memory_mb=1000).is_partial
    assert list(selection.skipped) == [1]
    assert "too large for TRAIN_MEMORY_MB" in selection.skipped[1]
    assert sorted(annotation.id for annotation in selection.new) == [1, 2, 3, 4]


def test_every_row_that_a_run_reads_is_found_by_an_index(store: Store, settings: Settings) -> None:
    """SQLite uses a partial index only if the query has its conditions in the same words."""
    if not store.is_sqlite:
        pytest.skip("PostgreSQL chooses by the sizes of tables, and these are small")
    annotate(store, *range(1, 2001), run_id=1)
    annotate(store, *range(2001, 2011))
    plans: dict[str, list[str]] = {}

    @event.listens_for(store.engine, "before_cursor_execute")
    def explain(connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
        if "FROM annotation" in statement or "JOIN annotation" in statement:
            plan = cursor.execute(f"EXPLAIN QUERY PLAN {statement}", parameters).fetchall()
            plans[statement] = [str(step[3]) for step in plan if "annotation" in step[3]]

    select(store, settings, replay_annotations=40)
    training_runs.request_due(store, settings)
    with store.read() as session:
        _states(session, projects.get(session, PROJECT), most=4000)
    event.remove(store.engine, "before_cursor_execute", explain)
    assert len(plans) >= 8
    steps = {step for of_statement in plans.values() for step in of_statement}
    assert all("SEARCH annotation USING" in step for step in steps), plans
    names = ("annotation_new ", "annotation_learned", "annotation_task", "annotation_newest")
    assert [name for name in names if name not in str(steps)] == []
