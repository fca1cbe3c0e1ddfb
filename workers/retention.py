"""Removes what nobody needs any more: old events and runs, adapters of rejected versions, leftovers, long logs.

Runs in the light worker's sweep, every PRUNE_EVERY_S, a bounded part at a time; if there is more, the next sweep
goes on. The settings `*_RETENTION_DAYS` say how long things are kept. Several light workers may do this at once.
"""

import logging
import os
import shutil
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial

from sqlalchemy import select

from lorabel.database import connecting_files, projects, retention, versions
from lorabel.database.adapter_folders import VersionFolder
from lorabel.database.retention import ROWS_PER_TRANSACTION
from lorabel.database.tables import (
    BulkRun,
    EventState,
    ModelVersion,
    Project,
    RunState,
    TrainingRun,
    now,
    version_name,
)
from workers.services import Services

log = logging.getLogger(__name__)

PRUNE_EVERY_S = 3600.0
MOST_TRANSACTIONS = 10
MOST_FOLDERS = 20
DONE = (EventState.APPLIED, EventState.STALE, EventState.IGNORED)
MEGABYTE = 2**20


class Pruning:
    """When it is time to prune. Not thread-safe."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._due_at = 0.0

    def prune_if_due(self) -> None:
        """Prune if PRUNE_EVERY_S are over, or if the last time left something."""
        if time.monotonic() < self._due_at:
            return
        # Also after an error: otherwise each sweep would run into it.
        self._due_at = time.monotonic() + PRUNE_EVERY_S
        if prune(self._services):
            self._due_at = 0.0


def prune(services: Services) -> bool:
    """Remove a bounded part of what is kept too long. Returns whether there may be more.

    A step that fails is logged, and the other steps are done.
    """
    is_more = False
    for step in (
        _remove_rows,
        _remove_rejected_adapters,
        _remove_leftover_folders,
        _remove_broken_redis,
        _shorten_logs,
        _remove_connecting,
    ):
        try:
            is_more |= step(services)
        except Exception:
            log.exception("not everything old was removed; the next attempt comes in %g s", PRUNE_EVERY_S)
    return is_more


def _remove_connecting(services: Services) -> bool:
    """Remove what was found when projects were connected from the page."""
    connecting_files.remove_old(services.settings)
    return False


def _remove_rows(services: Services) -> bool:
    settings, store = services.settings, services.store
    return any(
        [
            _repeat("done events", settings.event_retention_days, partial(retention.remove_events, store, DONE)),
            _repeat(
                "failed events",
                settings.failed_event_retention_days,
                partial(retention.remove_events, store, [EventState.FAILED]),
            ),
            _repeat(
                "training runs", settings.run_retention_days, partial(retention.remove_runs, store, TrainingRun)
            ),
            _repeat("bulk runs", settings.run_retention_days, partial(retention.remove_runs, store, BulkRun)),
        ]
    )


def _repeat(name: str, days: int, remove: Callable[[int], int]) -> bool:
    """Call `remove` until no row is left, but at most MOST_TRANSACTIONS times, and not at all if `days` is 0."""
    removed, last = 0, 0
    for _ in range(MOST_TRANSACTIONS if days else 0):
        last = remove(days)
        removed += last
        if last < ROWS_PER_TRANSACTION:
            break
    if removed:
        log.info("%d %s were removed, which were older than %d days", removed, name, days)
    return last >= ROWS_PER_TRANSACTION


def _remove_rejected_adapters(services: Services) -> bool:
    """Note in the versions' rows that their adapters are removed, and then remove the folders.

    A kill in between leaves folders, which the next pruning removes. `make_live` also locks the project, so a
    version either becomes live and keeps its adapters, or cannot become live any more.
    """
    settings = services.settings
    days, kept = settings.rejected_adapter_retention_days, settings.rejected_adapters_kept
    if not days or not services.adapter_folders.root.is_dir():
        return False
    with services.store.read() as session:
        project_ids = session.scalars(select(Project.id).order_by(Project.id)).all()
        project_ids = [
            known_id for known_id in project_ids if versions.list_removable(session, known_id, days, kept)
        ]
    names: list[str] = []
    for project_id in project_ids:
        with services.store.write() as session:
            projects.get(session, project_id, is_locked=True)
            removable = versions.list_removable(session, project_id, days, kept)
            for version in removable[: MOST_FOLDERS - len(names)]:
                version.adapters_removed_at = now()
                names.append(version.name)
    _remove_noted_folders(services)
    if names:
        log.info("the adapters of %d rejected versions were removed: %s", len(names), ", ".join(names))
    return len(names) >= MOST_FOLDERS


def _remove_noted_folders(services: Services) -> None:
    """Remove the folders of versions whose rows say that their adapters are removed."""
    is_noted = ModelVersion.adapters_removed_at.is_not(None)
    with services.store.read() as session:
        rows = session.execute(select(ModelVersion.project_id, ModelVersion.number).where(is_noted)).all()
    noted = {version_name(project_id, number) for project_id, number in rows}
    for folder in services.adapter_folders.list_versions():
        if folder.name in noted:
            services.adapter_folders.remove(folder.name)


def _remove_leftover_folders(services: Services) -> bool:
    """Remove old folders without a row, which runs left that were killed or had lost their lease.

    Of a project's folders the one with the highest number is only emptied if no row has a higher number: otherwise
    the number would be used again, and the model server may have loaded this folder.
    """
    if not services.settings.leftover_retention_days or not services.adapter_folders.root.is_dir():
        return False
    adapter_folders = services.adapter_folders
    cutoff = now() - timedelta(days=services.settings.leftover_retention_days)
    removed = adapter_folders.remove_old_temporary(cutoff)
    folders = adapter_folders.list_versions()
    highest = {folder.project_id: folder.number for folder in folders}
    for folder in folders:
        if len(removed) >= MOST_FOLDERS:
            break
        if adapter_folders.written_at(folder.name) >= cutoff or not _is_leftover(services, folder):
            continue
        with services.store.read() as session:
            next_number = versions.next_number(session, folder.project_id)
        if folder.number < highest[folder.project_id] or folder.number < next_number:
            adapter_folders.remove(folder.name)
            removed.append(folder.name)
        elif adapter_folders.empty(folder.name):
            removed.append(folder.name)
    if removed:
        log.info("%d folders of adapters that no version names were removed: %s", len(removed), ", ".join(removed))
    return len(removed) >= MOST_FOLDERS


def _is_leftover(services: Services, folder: VersionFolder) -> bool:
    """Whether a run left the folder, has ended, and made no version.

    A folder that is older than the project's row was written with another database, and may be needed with that.
    """
    is_version = (ModelVersion.project_id == folder.project_id, ModelVersion.number == folder.number)
    is_active = (
        TrainingRun.project_id == folder.project_id,
        TrainingRun.state.in_((RunState.QUEUED, RunState.RUNNING)),
    )
    with services.store.read() as session:
        project = session.get(Project, folder.project_id)
        if project is None or services.adapter_folders.written_at(folder.name) < project.created_at:
            return False
        rows = (select(ModelVersion.id).where(*is_version), select(TrainingRun.id).where(*is_active))
        return all(session.scalar(row.limit(1)) is None for row in rows)


def _remove_broken_redis(services: Services) -> bool:
    """Remove the data that the embedded Redis could not start with (`lorabel/commands/embedded_redis.py`)."""
    days, folder = (
        services.settings.leftover_retention_days,
        services.settings.data_dir.absolute() / "redis.broken",
    )
    if not days or not folder.is_dir():
        return False
    # A renamed folder keeps its time of modification.
    changed_at = datetime.fromtimestamp(folder.stat().st_ctime, UTC)
    if changed_at < now() - timedelta(days=days):
        shutil.rmtree(folder, ignore_errors=True)
        log.info("%s was removed", folder)
    return False


def _shorten_logs(services: Services) -> bool:
    """Copy each long log to `<name>.log.1`, in place of an older one, and empty it.

    The processes hold their logs open for appending, so they go on at the beginning of the emptied file.
    """
    for path in (services.settings.data_dir.absolute() / "logs").glob("*.log"):
        if path.stat().st_size > services.settings.log_max_mb * MEGABYTE:
            shutil.copy(path, f"{path}.1")
            os.truncate(path, 0)
            log.info("%s was longer than %d MB and was moved to %s.1", path, services.settings.log_max_mb, path)
    return False
