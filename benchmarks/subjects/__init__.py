"""The subjects of the benchmark, one file each, with a function `measure(plan) -> list[Row]`.

The first line of a file's docstring is the subject's title. Subjects are found by reading this folder, so a new
file needs no registration.
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
    """The subjects' names in the order in which they are measured and shown."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def title(name: str) -> str:
    """The first line of the subject's docstring."""
    return (_module(name).__doc__ or name).strip().splitlines()[0].rstrip(".")


def measure(name: str, plan: Plan) -> list[Row]:
    return cast(Measure, _module(name).measure)(plan)


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"{__name__}.{name}")
