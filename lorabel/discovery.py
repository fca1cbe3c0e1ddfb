"""Finds problems and families: the modules of a package of ours, then entry points of other packages."""

import inspect
import pkgutil
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import find_spec
from types import ModuleType
from typing import TypeVar

from lorabel.errors import PluginError

T = TypeVar("T")


def discover(package: ModuleType, base: type[T]) -> tuple[type[T], ...]:
    """Every concrete subclass of `base` in the package's modules and in the entry point group of its name.

    Modules whose name begins with an underscore are skipped: they hold what several plugins share.

    Args:
        package: `lorabel.problems` or `lorabel.families`; the entry point group has the same name.
        base: the class that a plugin must subclass.

    Raises:
        PluginError: a module or an entry point cannot be imported, or an entry point is not a concrete subclass.
    """
    plugins: list[type[T]] = []
    for module in sorted(pkgutil.iter_modules(package.__path__), key=lambda module: module.name):
        if not module.name.startswith("_"):
            plugins += _plugins_of(f"{package.__name__}.{module.name}", base)
    for point in entry_points(group=package.__name__):
        name = f"entry point {point.name!r} of {package.__name__} ({point.value})"
        try:
            candidate = point.load()
        except Exception as error:
            raise PluginError(f"{name} cannot be loaded: {type(error).__name__}: {error}") from error
        if not isinstance(candidate, type) or not issubclass(candidate, base) or candidate is base:
            raise PluginError(f"{name} is {candidate!r}, expected a subclass of {base.__name__}")
        if missing := sorted(getattr(candidate, "__abstractmethods__", ())):
            raise PluginError(f"{name} does not define {', '.join(missing)}, which {base.__name__} requires")
        plugins.append(candidate)
    return tuple(plugins)


def _plugins_of(module_name: str, base: type[T]) -> list[type[T]]:
    try:
        module = import_module(module_name)
    except Exception as error:
        spec = find_spec(module_name)
        raise PluginError(
            f"{module_name if spec is None else spec.origin} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    return [
        candidate
        for candidate in vars(module).values()
        if isinstance(candidate, type)
        and issubclass(candidate, base)
        and candidate.__module__ == module_name
        and not inspect.isabstract(candidate)
    ]
