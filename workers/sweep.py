"""What Redis lost is asked for again: the database knows what is to be done. Runs in the light worker."""

import logging
import threading

from lorabel.database import bulk_runs, training_runs
from workers.collect import apply_pending, start_due_runs
from workers.services import Services

log = logging.getLogger(__name__)


def sweep(here: Services) -> None:
    """Apply events that no job brought, requeue killed runs, start due ones, renew lost jobs of queued ones."""
    apply_pending(here.store)
    training_runs.requeue_killed(here.store, here.settings)
    bulk_runs.requeue_killed(here.store, here.settings)
    start_due_runs(here)
    with here.store.read() as session:
        waiting, waiting_in_bulk = training_runs.all_queued(session), bulk_runs.all_queued(session)
    for run in waiting:
        here.jobs.train(run.id, run.attempt)
    for bulk_run in waiting_in_bulk:
        here.jobs.preannotate(bulk_run)


def sweep_forever(here: Services, stop: threading.Event) -> None:
    while not stop.wait(here.settings.sweep_seconds):
        try:
            sweep(here)
        except Exception:
            log.exception("this sweep failed; the next comes in %g s", here.settings.sweep_seconds)
