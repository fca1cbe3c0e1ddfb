"""One file per subject of the benchmark: `measure(plan) -> list[Row]`, and a docstring that begins with its title.

The folder is read; a file that is put here is measured.
"""

import importlib
import pkgutil
from collections.abc import Callable
from types import ModuleType
from typing import cast

from benchmarks.plan import Plan
from benchmarks.rows import Row

Measure = Callable[[Plan], list[Row]]


def names() -> list[str]:
    """In the order in which they are measured and shown."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def title(name: str) -> str:
    return (_module(name).__doc__ or name).strip().splitlines()[0].rstrip(".")


def measure(name: str, plan: Plan) -> list[Row]:
    return cast(Measure, _module(name).measure)(plan)


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"{__name__}.{name}")
