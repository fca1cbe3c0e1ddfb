"""A run shows that it lives while a job works on it; silence means that its worker was killed."""

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
def heartbeat(here: Services, claimed: TrainingRun | BulkRun) -> Iterator[None]:
    """Renew the lease from a thread, also while media is fetched, a model loads or a server is waited for."""
    done = threading.Event()

    def beat() -> None:
        while not done.wait(here.settings.run_lease_seconds / 4):
            try:
                leases.report(here.store, claimed)
            except RunLostError as error:
                log.warning("no sign of life from here any more: %s", error)
                return
            except Exception:
                log.exception("run %d cannot renew its lease", claimed.id)

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
