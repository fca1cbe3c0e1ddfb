"""Small pictures of tasks, which browsers get from here: a page loads nothing from another host.

Pictures are fetched as for predictions, from the addresses and with the token that are allowed there, and written
anew as JPEG, so a browser gets nothing of the file itself.
"""

import hashlib
import io
import threading
import time
from functools import cached_property

from cachetools import LRUCache

from lorabel.contracts import MediaRef
from lorabel.database.tables import Project
from lorabel.errors import UnreadableError
from lorabel.label_studio.media_authorizations import Authorizations
from lorabel.media.deadline import deadline
from lorabel.media.decode_memory import decode_memory
from lorabel.media.fetching import Fetcher
from lorabel.media.image import decoded_image
from lorabel.settings import Settings

# Twice as large as it is shown, for screens with small pixels.
SIDE_PX = 192
# Where regions are drawn on a picture.
LARGE_PX = 400
JPEG_QUALITY = 82
# Larger files, and pictures that take more memory, have no thumbnail.
MOST_FILE_MB, MOST_DECODE_MB = 32, 256
DOWNLOAD_S, DECODE_S = 5.0, 10.0
KEPT_BYTES = 32 * 2**20
# A browser asks for at most 6 at a time; the threads of predictions are many more.
MOST_AT_ONCE = 6
WAIT_S = 10.0


class Thumbnails:
    """Makes thumbnails and keeps the last ones in memory. Thread-safe."""

    def __init__(self, settings: Settings, authorizations: Authorizations) -> None:
        self._settings, self._authorizations = settings, authorizations
        self._kept: LRUCache[tuple[int, int, bytes], bytes] = LRUCache(KEPT_BYTES, getsizeof=len)
        self._lock = threading.Lock()
        self._slots = threading.BoundedSemaphore(MOST_AT_ONCE)

    def get(self, project: Project, url: str, side_px: int = SIDE_PX) -> bytes:
        """The JPEG of a picture.

        Args:
            url: as in the task's data.
            side_px: most pixels of the longer side.

        Raises:
            UnreadableError: the picture cannot be fetched or read, or too many others are being made.
        """
        # A data URL may have many MB.
        key = (project.id, side_px, hashlib.sha256(url.encode(errors="surrogatepass")).digest())
        with self._lock:
            kept = self._kept.get(key)
        if kept is not None:
            return kept
        if not self._slots.acquire(timeout=WAIT_S):
            raise UnreadableError("too many other pictures are being read", is_permanent=False)
        try:
            thumbnail = self._make(project, url, side_px)
        finally:
            self._slots.release()
        with self._lock:
            self._kept[key] = thumbnail
        return thumbnail

    def close(self) -> None:
        """Close all connections."""
        if "_fetcher" in self.__dict__:
            self._fetcher.close()

    @cached_property
    def _fetcher(self) -> Fetcher:
        """Made when it is needed: a wrong variable of a proxy is no reason for the backend not to start."""
        limits = {
            "media_max_mb": min(self._settings.media_max_mb, MOST_FILE_MB),
            "media_timeout_s": min(self._settings.media_timeout_s, DOWNLOAD_S),
        }
        return Fetcher(self._settings.model_copy(update=limits))

    def _make(self, project: Project, url: str, side_px: int) -> bytes:
        resolve = self._authorizations.resolver(project, self._settings)
        data = self._fetcher.fetch(resolve(MediaRef(url=url)))
        memory = decode_memory(min(self._settings.media_decode_mb, MOST_DECODE_MB))
        with (
            deadline(time.monotonic() + DECODE_S),
            decoded_image(data, self._settings.media_max_megapixels, side_px, memory) as picture,
        ):
            picture.thumbnail((side_px, side_px))
            written = io.BytesIO()
            picture.save(written, "JPEG", quality=JPEG_QUALITY)
            return written.getvalue()
