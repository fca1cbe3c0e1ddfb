"""Says in the log that a base model is still being loaded, and how far its download is.

The libraries that load models show that as a bar in a terminal only.
"""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from huggingface_hub import constants

log = logging.getLogger(__name__)

FIRST_REPORT_S = 2.0
LONGEST_PAUSE_S = 60.0
# Files that huggingface_hub has not downloaded completely.
PARTIAL = "*/blobs/*.incomplete"


@contextmanager
def reported_load(what: str, first_report_s: float = FIRST_REPORT_S) -> Iterator[None]:
    """Report until the block ends, after `first_report_s` and then at pauses twice as long each, up to a minute.

    Args:
        what: names the base model in the message.
    """
    ended = threading.Event()
    reporter = threading.Thread(target=_report, args=(what, ended, first_report_s), daemon=True)
    reporter.start()
    try:
        yield
    finally:
        ended.set()
        reporter.join()


def _report(what: str, ended: threading.Event, pause_s: float) -> None:
    began_at = time.monotonic()
    while not ended.wait(pause_s):
        downloaded = _partial_bytes(Path(constants.HF_HUB_CACHE))
        download = f", {downloaded / 1e6:.1f} MB of a file are downloaded" if downloaded else ""
        log.info("still loading %s after %.0f s%s", what, time.monotonic() - began_at, download)
        pause_s = min(LONGEST_PAUSE_S, 2 * pause_s)


def _partial_bytes(cache: Path) -> int:
    size = 0
    for path in cache.glob(PARTIAL):
        with suppress(FileNotFoundError):
            size += path.stat().st_size
    return size
