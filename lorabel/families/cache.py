"""What a family has computed and may need again: pixels, features of pictures and of texts."""

import threading
from collections.abc import Hashable, Mapping
from typing import Any

from cachetools import LRUCache

DECODED, FEATURES, TEXTS = "pixels", "features", "texts"
"""Inputs as decoded; what a tower computed from them; what is the same for many questions: what it computed from
texts that they ask about, and what a head has learned."""


class FeatureCache:
    """Tensors, or whatever has `nbytes`, by kind and key. Thread-safe.

    Each kind has its own room, and forgets what was not used for longest.

    Args:
        most_bytes: room per kind. What is of another kind is not kept.
    """

    def __init__(self, most_bytes: Mapping[str, int]) -> None:
        self._kept: dict[str, LRUCache[Hashable, Any]] = {
            kind: LRUCache(size, getsizeof=lambda value: value.nbytes) for kind, size in most_bytes.items()
        }
        self._found = {kind: [0, 0] for kind in most_bytes}
        self._lock = threading.Lock()

    def get(self, kind: str, key: Hashable) -> Any | None:
        with self._lock:
            if kind not in self._kept:
                return None
            value = self._kept[kind].get(key)
            self._found[kind][value is not None] += 1
            return value

    def put(self, kind: str, key: Hashable, value: Any) -> None:
        """What is larger than its kind's whole room is not kept."""
        with self._lock:
            kept = self._kept.get(kind)
            if kept is not None and value.nbytes <= kept.maxsize:
                kept[key] = value

    def figures(self) -> dict[str, dict[str, int]]:
        """Per kind: `bytes` kept, `hits` and `misses` so far."""
        with self._lock:
            return {
                kind: {"bytes": int(kept.currsize), "hits": self._found[kind][1], "misses": self._found[kind][0]}
                for kind, kept in self._kept.items()
            }
