"""An order by `auto` is made again after so many new annotations, and no other order is."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, cast

import pytest

from lorabel.database import bulk_runs, leases, projects
from lorabel.database.store import Store
from lorabel.database.tables import Annotation, BulkRun, BulkRunKind, RunState, now
from tests.workers.conftest import NotedJobs
from tests.workers.events import annotation, put
from workers import collect, order_renewal
from workers.services import Services


@pytest.fixture
def renewing(services: Services, monkeypatch: pytest.MonkeyPatch) -> Services:
    """Services that renew an order after two annotations."""
    changed = replace(services, settings=services.settings.model_copy(update={"order_renew_after": 2}))
    monkeypatch.setattr(Services, "current", lambda: changed)
    return changed


def add_order(
    store: Store, *, strategy: str = "auto", state: RunState = RunState.FINISHED, seconds: float = 0.0
) -> BulkRun:
    """An order of project 1 that took so many seconds and ended a moment ago."""
    run = bulk_runs.request(store, 1, "test", kind=BulkRunKind.ORDER, only_unlabeled=True, strategy=strategy)
    with store.write() as session:
        row = session.get_one(BulkRun, run.id)
        row.state, row.finished_at = state, now()
        row.started_at = row.finished_at - timedelta(seconds=seconds)
    return run


def annotate(store: Store, *ids: int, **columns: Any) -> None:
    with store.write() as session:
        session.add_all([Annotation(id=id_, project_id=1, task_id=id_, result=[], **columns) for id_ in ids])


def renewals(store: Store) -> Sequence[BulkRun]:
    with store.read() as session:
        return [run for run in bulk_runs.list_of(session, 1) if run.kind == BulkRunKind.ORDER_RENEWAL]


def finish(store: Store, run: BulkRun) -> None:
    claimed = leases.claim(store, BulkRun, run.id)
    assert claimed is not None
    with store.write() as session:
        leases.finish(session, claimed, RunState.FINISHED)


def test_an_order_is_renewed_after_so_many_new_annotations_and_no_sooner(renewing: Services, store: Store) -> None:
    annotate(store, 1, 2, 3)
    add_order(store)
    annotate(store, 4)
    order_renewal.start_due(renewing)
    assert not renewals(store)
    annotate(store, 5)
    order_renewal.start_due(renewing)
    (run,) = renewals(store)
    assert (run.state, run.strategy, run.only_unlabeled, run.reason) == (
        RunState.QUEUED,
        "auto",
        True,
        "2 new annotations",
    )
    assert cast(NotedJobs, renewing.jobs).carried_out == [run.id]


def test_no_second_renewal_waits_while_one_waits_or_runs(renewing: Services, store: Store) -> None:
    add_order(store)
    for state in (RunState.QUEUED, RunState.RUNNING):
        annotate(store, *range(100 * len(state), 100 * len(state) + 9))
        order_renewal.start_due(renewing)
        run, *others = renewals(store)
        assert (run.state, others) == (state, [])
        if state == RunState.QUEUED:
            leases.claim(store, BulkRun, run.id)


def test_a_renewal_is_renewed_too_and_only_the_newest_ended_one_is_kept(
    renewing: Services, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(order_renewal, "REST", 0)
    add_order(store)
    ids = []
    for first in (10, 20, 30):
        annotate(store, first, first + 1)
        order_renewal.start_due(renewing)
        newest = renewals(store)[0]
        ids.append(newest.id)
        finish(store, newest)
    assert ids == sorted(set(ids))
    assert [run.id for run in renewals(store)] == [ids[2], ids[1]]


@pytest.mark.parametrize(
    "order", [{"strategy": "random"}, {"state": RunState.CANCELLED}, {"state": RunState.RUNNING}]
)
def test_an_order_by_another_strategy_or_a_cancelled_one_is_not_renewed(
    renewing: Services, store: Store, order: dict[str, Any]
) -> None:
    add_order(store)
    add_order(store, **order)
    annotate(store, 1, 2, 3)
    order_renewal.start_due(renewing)
    assert not renewals(store)


def test_a_failed_order_is_tried_again_after_new_annotations(renewing: Services, store: Store) -> None:
    add_order(store, state=RunState.FAILED)
    annotate(store, 1, 2)
    order_renewal.start_due(renewing)
    assert len(renewals(store)) == 1


def test_skipped_and_deleted_annotations_do_not_count(renewing: Services, store: Store) -> None:
    add_order(store)
    annotate(store, 1, was_cancelled=True)
    annotate(store, 2, is_deleted=True)
    annotate(store, 3)
    order_renewal.start_due(renewing)
    assert not renewals(store)


def test_a_slow_order_rests_before_it_is_renewed(renewing: Services, store: Store) -> None:
    add_order(store, seconds=60)
    annotate(store, 1, 2)
    order_renewal.start_due(renewing)
    assert not renewals(store)


def test_a_deleted_project_and_the_setting_0_renew_nothing(services: Services, store: Store) -> None:
    add_order(store)
    annotate(store, *range(1, 30))
    never = services.settings.model_copy(update={"order_renew_after": 0})
    order_renewal.start_due(replace(services, settings=never))
    projects.upsert(store, 1, is_deleted=True)
    order_renewal.start_due(services)
    assert not renewals(store)


def test_submitted_annotations_renew_the_order_when_their_events_are_applied(
    renewing: Services, store: Store
) -> None:
    add_order(store)
    put(store, annotation(1, 1, "red", 1), annotation(2, 2, "blue", 2))
    collect.apply_pending(store)
    collect.start_due_runs(renewing)
    assert len(renewals(store)) == 1
