"""Renews a run's lease while a job works on it. A lease that expires means that the worker was killed."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from lorabel.database import leases
from lorabel.database.tables import BulkRun, TrainingRun
from lorabel.errors import RunLostError
from workers.services import Services

log = logging.getLogger(__name__)


@contextmanager
def heartbeat(services: Services, run: TrainingRun | BulkRun) -> Iterator[None]:
    """Renew the run's lease from a thread of its own during the block, whatever the block waits for."""
    done = threading.Event()

    def beat() -> None:
        while not done.wait(services.settings.run_lease_seconds / 4):
            try:
                leases.report(services.store, run)
            except RunLostError as error:
                log.warning("the lease is not renewed any more: %s", error)
                return
            except Exception:
                log.exception("run %d cannot renew its lease", run.id)

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
