"""What is old is removed, and what is needed stays. The times of rows and files are set by the tests."""

import logging
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from lorabel.database import connecting_files, projects, retention, versions
from lorabel.database.store import Store
from lorabel.database.tables import (
    BulkRun,
    Event,
    EventState,
    ModelVersion,
    Project,
    RunState,
    TrainingRun,
    VersionState,
    now,
)
from lorabel.errors import ConflictError
from lorabel.inference import promotion
from lorabel.settings import Settings
from tests.backend.fake_model_server import FakeModelServer
from workers import requeue_sweep
from workers import retention as pruning
from workers.services import Services


@pytest.fixture
def services(settings: Settings, store: Store, model_server: FakeModelServer) -> Iterator[Services]:
    real = Services.open(settings.model_copy(update={"model_server_url": model_server.url}))
    projects.upsert(store, 1, label_config="<View/>")
    yield real
    real.close()


def days_ago(days: float) -> datetime:
    return now() - timedelta(days=days)


def add_version(services: Services, number: int, state: VersionState, age_days: float) -> Path:
    """Add a version with its folder, which is as old as the row."""
    name = f"p1.v{number}"
    with services.store.write() as session:
        version = ModelVersion(
            project_id=1,
            number=number,
            parent=0,
            state=state,
            base_models={},
            adapters={"label": f"{name}/label"},
            metrics={},
            trained_on=[],
            created_at=days_ago(age_days),
        )
        session.add(version)
        if state == VersionState.LIVE:
            session.get_one(Project, 1).live_number = number
    return add_folder(services, name, age_days)


def add_folder(services: Services, name: str, age_days: float) -> Path:
    folder = services.adapter_folders.root / name
    (folder / "label").mkdir(parents=True)
    (folder / "label" / "adapter_config.json").write_text("{}")
    set_age(folder, age_days)
    return folder


def set_age(path: Path, days: float) -> None:
    os.utime(path, (time.time() - days * 86400,) * 2)


def set_project_age(store: Store, days: float) -> None:
    with store.write() as session:
        session.get_one(Project, 1).created_at = days_ago(days)


def test_old_events_are_removed_but_never_pending_ones_and_failed_ones_much_later(
    services: Services, store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(retention, "ROWS_PER_TRANSACTION", 7)
    monkeypatch.setattr(pruning, "ROWS_PER_TRANSACTION", 7)
    with store.write() as session:
        for age in (400, 200, 100, 31, 29, 0):
            for state in EventState:
                row = Event(action=f"{state} {age}", payload="{}", state=state, received_at=days_ago(age))
                session.add(row)
    with caplog.at_level(logging.INFO):
        assert not pruning.prune(services)
    with store.read() as session:
        left = set(session.scalars(select(Event.action)))
    assert left == {
        *(f"pending {age}" for age in (400, 200, 100, 31, 29, 0)),
        *(f"failed {age}" for age in (100, 31, 29, 0)),
        *(f"{state} {age}" for state in ("applied", "stale", "ignored") for age in (29, 0)),
    }
    assert "12 done events were removed, which were older than 30 days" in caplog.text
    assert "2 failed events were removed, which were older than 180 days" in caplog.text


def test_a_pruning_removes_a_bounded_part_and_says_that_there_is_more(
    services: Services, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (retention, pruning):
        monkeypatch.setattr(module, "ROWS_PER_TRANSACTION", 3)
    monkeypatch.setattr(pruning, "MOST_TRANSACTIONS", 2)
    with store.write() as session:
        session.add_all(
            Event(action="x", payload="{}", state=EventState.APPLIED, received_at=days_ago(40)) for _ in range(7)
        )
    assert pruning.prune(services)
    with store.read() as session:
        assert len(session.scalars(select(Event.id)).all()) == 1
    assert not pruning.prune(services)


@pytest.mark.parametrize("table", [TrainingRun, BulkRun])
def test_old_runs_are_removed_except_the_newest_of_each_project_and_active_ones(
    services: Services, store: Store, table: Any
) -> None:
    columns = {"only_unlabeled": False} if table is BulkRun else {}
    with store.write() as session:
        for number in range(1, 31):
            is_active = number == 2
            state = RunState.RUNNING if is_active else RunState.FINISHED
            age = 10 if number == 3 else 100
            row = table(id=number, project_id=1, state=state, reason="x", **columns)
            row.finished_at = None if is_active else days_ago(age)
            session.add(row)
    pruning.prune(services)
    with store.read() as session:
        left = session.scalars(select(table.id).order_by(table.id)).all()
    assert left == [2, 3, *range(11, 31)], "2 is running, 3 is young"


def test_adapters_of_old_rejected_versions_are_removed_and_a_promotion_says_so(
    services: Services, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    small = replace(services, settings=services.settings.model_copy(update={"rejected_adapters_kept": 2}))
    folders = [
        add_version(small, 1, VersionState.RETIRED, 100),
        add_version(small, 2, VersionState.REJECTED, 100),
        add_version(small, 3, VersionState.LIVE, 100),
        add_version(small, 4, VersionState.REJECTED, 13),
        add_version(small, 5, VersionState.CANDIDATE, 100),
        add_version(small, 6, VersionState.REJECTED, 100),
        add_version(small, 7, VersionState.REJECTED, 100),
    ]
    with caplog.at_level(logging.INFO):
        pruning.prune(small)
    assert [folder.name for folder in folders if not folder.exists()] == ["p1.v2"], (
        "4 is young, 6 and 7 the newest"
    )
    assert "the adapters of 1 rejected versions were removed: p1.v2" in caplog.text
    with store.read() as session:
        removed_at = versions.get(session, 1, 2).adapters_removed_at
        assert removed_at is not None
    with pytest.raises(
        ConflictError, match=r"p1\.v2 cannot become live: it was rejected, and its adapters were re"
    ):
        promotion.promote(store, services.model_client, 1, 2)
    assert promotion.promote(store, services.model_client, 1, 6) == "p1.v6"


def test_a_version_that_becomes_live_meanwhile_keeps_its_adapters(
    services: Services, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list of projects is read before; what counts is what the locked project says."""
    few = replace(services, settings=services.settings.model_copy(update={"rejected_adapters_kept": 0}))
    folder = add_version(few, 1, VersionState.REJECTED, 100)
    real, calls = versions.list_removable, []

    def promote_after_first_look(*arguments: Any) -> Any:
        removable = real(*arguments)
        if not calls:
            promotion.promote(store, services.model_client, 1, 1)
        calls.append(1)
        return removable

    monkeypatch.setattr(versions, "list_removable", promote_after_first_look)
    pruning.prune(few)
    assert len(calls) == 2 and folder.exists()


def test_a_version_whose_adapters_are_removed_during_the_preload_does_not_become_live(
    services: Services, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = replace(services, settings=services.settings.model_copy(update={"rejected_adapters_kept": 0}))
    add_version(few, 1, VersionState.REJECTED, 100)
    monkeypatch.setattr(promotion, "preload", lambda *_: pruning.prune(few))
    with pytest.raises(ConflictError, match="its adapters were removed"):
        promotion.promote(store, services.model_client, 1, 1)
    with store.read() as session:
        assert projects.get(session, 1).live_version == "p1.v0"


def test_after_a_kill_between_row_and_folder_the_next_pruning_removes_the_folder(
    services: Services, store: Store
) -> None:
    folder = add_version(services, 1, VersionState.REJECTED, 1)
    with store.write() as session:
        versions.get(session, 1, 1).adapters_removed_at = now()
    pruning.prune(services)
    assert not folder.exists()


def test_what_was_found_while_projects_were_connected_is_removed_after_an_hour(services: Services) -> None:
    folder = connecting_files.folder_of(services.settings)
    folder.mkdir(parents=True)
    for name, age_s in (("old", 3700), ("young", 3500)):
        (folder / name).touch()
        os.utime(folder / name, (time.time() - age_s,) * 2)
    pruning.prune(services)
    assert [path.name for path in folder.iterdir()] == ["young"]


def test_leftovers_are_removed_and_no_number_is_used_again(services: Services, store: Store) -> None:
    set_project_age(store, 50)
    live = add_version(services, 2, VersionState.LIVE, 40)
    old, young = add_folder(services, "p1.v1", 30), add_folder(services, "p1.v3", 1)
    highest, temporary = add_folder(services, "p1.v4", 30), add_folder(services, ".p1.v5.abc", 30)
    fresh_temporary = add_folder(services, ".p1.v5.def", 1)
    unknown = add_folder(services, "p9.v1", 30)
    pruning.prune(services)
    assert not old.exists() and not temporary.exists()
    assert live.exists() and young.exists() and fresh_temporary.exists()
    assert unknown.exists(), "another database may know this project"
    assert list(highest.iterdir()) == [], "it is emptied"
    assert services.adapter_folders.last_number(1) == 4
    add_version(services, 5, VersionState.RETIRED, 0)
    set_age(highest, 30)
    pruning.prune(services)
    assert not highest.exists()


def test_folders_that_were_written_with_another_database_stay(services: Services, store: Store) -> None:
    set_project_age(store, 20)
    folder = add_folder(services, "p1.v1", 30)
    add_version(services, 2, VersionState.LIVE, 1)
    pruning.prune(services)
    assert (folder / "label").exists()


@pytest.mark.parametrize("state", [RunState.QUEUED, RunState.RUNNING])
def test_folders_of_a_project_with_a_run_in_progress_stay(
    services: Services, store: Store, state: RunState
) -> None:
    set_project_age(store, 50)
    folder = add_folder(services, "p1.v1", 30)
    with store.write() as session:
        session.add(TrainingRun(project_id=1, state=state, reason="x"))
    pruning.prune(services)
    assert (folder / "label").exists()


def test_broken_redis_data_and_long_logs_are_put_away(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    broken, logs = services.settings.data_dir / "redis.broken", services.settings.data_dir / "logs"
    (broken / "appendonlydir").mkdir(parents=True)
    logs.mkdir()
    long, short = logs / "backend.log", logs / "redis.log"
    with long.open("ab") as process_output:
        process_output.write(b"x" * (pruning.MEGABYTE + 1))
        process_output.flush()
        short.write_text("short")
        brief = services.settings.model_copy(update={"log_max_mb": 1})
        pruning.prune(replace(services, settings=brief))
        process_output.write(b"goes on")
    assert broken.exists(), "it is young"
    assert (long.read_text(), short.read_text()) == ("goes on", "short")
    assert (logs / "backend.log.1").stat().st_size == pruning.MEGABYTE + 1
    monkeypatch.setattr(pruning, "now", lambda: now() + timedelta(days=8))
    pruning.prune(services)
    assert not broken.exists()


def test_with_retention_of_0_days_everything_stays(services: Services, store: Store) -> None:
    names = [name for name in Settings.model_fields if name.endswith("_retention_days")]
    assert len(names) == 5
    forever = replace(services, settings=services.settings.model_copy(update=dict.fromkeys(names, 0)))
    set_project_age(store, 500)
    folders = [add_version(services, number, VersionState.REJECTED, 400) for number in range(1, 9)]
    folders.append(add_folder(services, "p1.v9", 400))
    with store.write() as session:
        session.add(Event(action="x", payload="{}", state=EventState.APPLIED, received_at=days_ago(400)))
    assert not pruning.prune(forever)
    assert all((folder / "label").exists() for folder in folders)
    with store.read() as session:
        assert session.scalar(select(Event.id)) is not None


def test_a_step_that_fails_is_logged_and_the_others_are_done(
    services: Services, store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> int:
        raise OSError("the disk is full")

    monkeypatch.setattr(retention, "remove_events", fail)
    folder = add_version(services, 1, VersionState.REJECTED, 1)
    with store.write() as session:
        versions.get(session, 1, 1).adapters_removed_at = now()
    pruning.prune(services)
    assert not folder.exists()
    assert "the disk is full" in caplog.text


def test_the_sweep_prunes_once_an_hour_or_at_once_if_something_is_left(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = iter([True, False, False])
    calls: list[int] = []

    def prune(_: Services) -> bool:
        calls.append(1)
        return next(results)

    monkeypatch.setattr(pruning, "prune", prune)
    when_due = pruning.Pruning(services)
    for _ in range(5):
        when_due.prune_if_due()
    assert len(calls) == 2
    assert requeue_sweep.Pruning is pruning.Pruning
