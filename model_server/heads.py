"""The fitted heads that answer rows, read from their files and kept while they are used."""

import logging
import threading
from typing import Any

from cachetools import LRUCache

from lorabel.contracts import BatchAdapters
from lorabel.database.adapter_folders import AdapterFolders
from lorabel.errors import NotFoundError, UnreadableError
from lorabel.families.base import Family
from lorabel.families.encoders.heads.linear_head import LinearHead
from model_server.metrics import Metrics

log = logging.getLogger(__name__)

MEMORY_BYTES = 64 * 2**20


class Heads:
    """Heads by name, the least recently used ones are dropped. Thread-safe.

    A row whose head cannot be read, or does not fit, is answered without it: that is logged and counted.
    """

    def __init__(self, adapter_folders: AdapterFolders, metrics: Metrics) -> None:
        self._adapter_folders, self._metrics = adapter_folders, metrics
        self._heads: LRUCache[str, LinearHead] = LRUCache(MEMORY_BYTES, getsizeof=lambda head: head.weights.nbytes)
        self._lock = threading.Lock()

    def apply(
        self, name: str | None, example: Any, family: Family, adapter: str | None, bank: BatchAdapters
    ) -> Any:
        """Return the example as one that the family answers with a head; see `Family.with_head`.

        Args:
            name: `p<project>.h<n>/<control tag>`; None for no head.
            example: from `recall` or `prepare` of the family.
            adapter: the adapter that the row is answered with.

        Returns:
            None if the example is from `recall` and lacks what the head needs.
        """
        if name is None:
            return example
        try:
            return family.with_head(example, self.read(name), adapter, bank)
        except (NotFoundError, UnreadableError) as error:
            self._metrics.missing_heads.inc()
            log.warning("a row is answered without head %s: %s", name, error)
            return example

    def read(self, name: str) -> LinearHead:
        """Return a head.

        Raises:
            NotFoundError: it has no file.
            UnreadableError: the file is no head.
        """
        with self._lock:
            head = self._heads.get(name)
        if head is None:
            head = LinearHead.from_bytes(self._adapter_folders.read_head(name))
            with self._lock:
                if head.weights.nbytes <= self._heads.maxsize:
                    self._heads[name] = head
        return head
