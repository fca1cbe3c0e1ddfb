import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

import pytest

from lorabel.database import bulk_runs, leases, projects, training_runs
from lorabel.database.store import Store
from lorabel.database.tables import BulkRun, RunState
from lorabel.settings import Settings
from tests.workers.events import annotation, put
from workers import requeue_sweep
from workers.collect import apply_during_run
from workers.services import Services


class RecordedJobs:
    """Fakes the queues, and records (run id, attempt) of each job that was enqueued."""

    def __init__(self) -> None:
        self.trained: list[tuple[int, int]] = []
        self.carried_out: list[tuple[int, int]] = []

    def carry_out(self, run: BulkRun) -> bool:
        self.carried_out.append((run.id, run.attempt))
        return True

    def train(self, run_id: int, attempt: int) -> bool:
        self.trained.append((run_id, attempt))
        return True


@pytest.fixture
def services(settings: Settings, store: Store) -> Iterator[Services]:
    real = Services.open(settings)
    yield replace(real, jobs=cast(Any, RecordedJobs()))
    real.close()


def trained(services: Services) -> list[tuple[int, int]]:
    return cast(RecordedJobs, services.jobs).trained


def test_pending_events_are_applied_and_start_the_run_that_is_due(services: Services, store: Store) -> None:
    put(store, *(annotation(i, i, "red", 0) for i in range(services.settings.train_after_annotations)))
    requeue_sweep.sweep(services)
    with store.read() as session:
        (run,) = training_runs.list_of(session, 1)
    assert run.state == RunState.QUEUED
    assert set(trained(services)) == {(run.id, 1)}


def test_a_queued_run_whose_job_was_lost_gets_a_job_again(services: Services, store: Store) -> None:
    projects.upsert(store, 1, label_config="<View/>")
    run = training_runs.request(store, 1, "CLI")
    requeue_sweep.sweep(services)
    requeue_sweep.sweep(services)
    assert trained(services) == [(run.id, 1), (run.id, 1)]


def test_a_killed_run_gets_a_job_for_its_second_attempt(services: Services, store: Store) -> None:
    projects.upsert(store, 1, label_config="<View/>")
    run = training_runs.request(store, 1, "CLI")
    training_runs.claim(store, run.id)
    brief = services.settings.model_copy(update={"run_lease_seconds": 0.0})
    requeue_sweep.sweep(replace(services, settings=brief))
    assert trained(services) == [(run.id, 2)]


def test_a_killed_bulk_run_gets_a_job_again(services: Services, store: Store) -> None:
    projects.upsert(store, 1, label_studio_url="http://label-studio.test", api_key="token")
    run = bulk_runs.request(store, 1, "CLI")
    requeue_sweep.sweep(services)
    leases.claim(store, BulkRun, run.id)
    requeue_sweep.sweep(services)
    brief = services.settings.model_copy(update={"run_lease_seconds": 0.0})
    requeue_sweep.sweep(replace(services, settings=brief))
    assert cast(RecordedJobs, services.jobs).carried_out == [(run.id, 1), (run.id, 2)]


def test_after_a_failed_sweep_the_next_one_comes(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long look at all projects is followed by sweeps without one: with thousands of projects it takes long."""
    calls: list[bool] = []
    stop = threading.Event()

    def fail(_: Services, *, is_seeking_due: bool) -> float:
        calls.append(is_seeking_due)
        if len(calls) == 1:
            raise OSError("the disk is full")
        if len(calls) == 4:
            stop.set()
        return 0.0 if len(calls) == 2 else 1000.0

    monkeypatch.setattr(requeue_sweep, "sweep", fail)
    quick = services.settings.model_copy(update={"sweep_seconds": 0.01})
    requeue_sweep.sweep_forever(replace(services, settings=quick), stop)
    assert calls == [True, True, True, False], "only the look counts, and only if it was finished"


def test_events_that_a_sweep_without_a_full_look_applies_start_the_run_that_is_due(
    services: Services, store: Store
) -> None:
    put(store, *(annotation(i, i, "red", 0) for i in range(services.settings.train_after_annotations)))
    requeue_sweep.sweep(services, is_seeking_due=False)
    with store.read() as session:
        (run,) = training_runs.list_of(session, 1)
    assert set(trained(services)) == {(run.id, 1)}


def test_events_of_other_projects_that_a_run_applies_start_the_runs_that_are_due_there(
    services: Services, store: Store
) -> None:
    for project_id in (1, 2):
        bodies = [annotation(i, i, "red", 0) for i in range(services.settings.train_after_annotations)]
        put(store, *bodies, project_id=project_id)
    apply_during_run(services, 1)
    with store.read() as session:
        assert [len(training_runs.list_of(session, project_id)) for project_id in (1, 2)] == [0, 1]
    assert len(trained(services)) == 1
