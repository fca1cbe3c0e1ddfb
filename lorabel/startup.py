"""Imports of a process at its start, without the garbage collector."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def garbage_collector_paused() -> Iterator[None]:
    """Pause the garbage collector while modules are imported, and let it ignore them from then on.

    Modules are never garbage. To search them for it takes a fifth of the imports' time, as long again when the
    process ends, and stops all threads at each full collection in between. Load no base model in the block: its
    garbage would be kept.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
