"""Finds problems and families: the modules of our own folder, then entry points of other packages."""

import pkgutil
from importlib import import_module
from importlib.metadata import entry_points
from types import ModuleType
from typing import TypeVar

T = TypeVar("T")


def discover(package: ModuleType, base: type[T]) -> tuple[type[T], ...]:
    """Every concrete subclass of `base` in the package's modules and in the entry point group of its name.

    Args:
        package: `lorabel.problems` or `lorabel.families`; the entry point group has the same name.
        base: the class that a module of it must subclass.
    """
    names = sorted(module.name for module in pkgutil.iter_modules(package.__path__))
    found = [
        candidate
        for name in names
        for candidate in vars(import_module(f"{package.__name__}.{name}")).values()
        if _is_plugin(candidate, base) and candidate.__module__ == f"{package.__name__}.{name}"
    ]
    for point in entry_points(group=package.__name__):
        candidate = point.load()
        if not _is_plugin(candidate, base):
            raise TypeError(
                f"entry point {point.name!r} of {package.__name__} is no {base.__name__}: {candidate!r}"
            )
        found.append(candidate)
    return tuple(found)


def _is_plugin(candidate: object, base: type) -> bool:
    return isinstance(candidate, type) and issubclass(candidate, base) and candidate is not base
