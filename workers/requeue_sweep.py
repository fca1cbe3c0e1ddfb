"""Puts jobs that Redis lost back on the queues, from what the database knows. Runs in the light worker."""

import logging
import threading
import time

from lorabel.database import bulk_runs, training_runs
from workers.collect import apply_pending, start_due_runs
from workers.retention import Pruning
from workers.services import Services

log = logging.getLogger(__name__)

# After a look at all projects for due runs that took s seconds, so many times s pass before the next look: with
# thousands of projects it takes many seconds. What an event makes due is found when it is applied.
REST = 9


def sweep(services: Services, *, is_seeking_due: bool = True) -> float:
    """Apply pending events, requeue killed runs, start due runs, and enqueue a job for each queued run.

    Heads that are behind are fitted by the thread that waits for `heads_wanted`.

    Args:
        is_seeking_due: whether to look for due runs in all projects; else in those whose events were applied.

    Returns:
        The seconds that the look for due runs took.
    """
    changed: set[int] = set()
    apply_pending(services.store, changed)
    services.heads_wanted.set()
    training_runs.requeue_killed(services.store, services.settings)
    bulk_runs.requeue_killed(services.store, services.settings)
    began_at = time.monotonic()
    start_due_runs(services, None if is_seeking_due else changed)
    look_s = time.monotonic() - began_at
    with services.store.read() as session:
        queued_runs, queued_bulk_runs = training_runs.list_queued(session), bulk_runs.list_queued(session)
    for run in queued_runs:
        services.jobs.train(run.id, run.attempt)
    for bulk_run in queued_bulk_runs:
        services.jobs.carry_out(bulk_run)
    return look_s


def sweep_forever(services: Services, stop: threading.Event) -> None:
    """Sweep every SWEEP_SECONDS until `stop` is set, and prune now and then. A sweep that fails is logged."""
    pruning, next_look_at = Pruning(services), 0.0
    while not stop.wait(services.settings.sweep_seconds):
        is_seeking_due = time.monotonic() >= next_look_at
        try:
            look_s = sweep(services, is_seeking_due=is_seeking_due)
            if is_seeking_due:
                next_look_at = time.monotonic() + REST * look_s
            pruning.prune_if_due()
        except Exception:
            log.exception("this sweep failed; the next comes in %g s", services.settings.sweep_seconds)
