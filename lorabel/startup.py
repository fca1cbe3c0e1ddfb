"""Imports of a process at its start, without the garbage collector."""

import atexit
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def garbage_collector_paused() -> Iterator[None]:
    """Pause the garbage collector while modules are imported, and let it ignore them from then on.

    Modules are never garbage. To search them for it takes a fifth of the imports' time, stops all threads at each
    full collection later, and takes as long again when the process ends. Load no base model in the block: its
    garbage would be kept.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if "triton" in sys.modules:
            # Its bindings print pages of "leaked" objects if the end of the process does not find them.
            atexit.register(gc.unfreeze)
        gc.enable()
