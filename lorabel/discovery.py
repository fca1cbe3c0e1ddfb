"""Finds plugins: problems in `lorabel.problems`, families in `lorabel.families`, and those of other packages.

A plugin is a concrete subclass of `Problem` or `Family`. It is found in a module of our package, or by an entry
point of another package. The group of the entry point is the name of our package:

[project.entry-points."lorabel.problems"]
shouting = "lorabel_shouting.shouting:Shouting"
"""

import inspect
import logging
import pkgutil
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from types import ModuleType
from typing import ClassVar, Protocol, TypeVar, get_origin

from lorabel.errors import PluginError

log = logging.getLogger(__name__)


class Plugin(Protocol):
    """What every plugin has: a name that no other plugin of the same base class has."""

    name: ClassVar[str]


T = TypeVar("T", bound=Plugin)


def discover(package: ModuleType, base: type[T]) -> tuple[type[T], ...]:
    """Return the plugins of a package: those of its modules, by name of the module, then those of entry points.

    Modules whose name begins with an underscore are not searched: they hold code that several plugins share. A
    subpackage is searched like a module: its `__init__` may import a plugin from one of its own modules.
    Abstract classes are not plugins; if a module has no other subclass, a warning names the missing methods.

    Args:
        package: `lorabel.problems` or `lorabel.families`.
        base: the class that plugins subclass.

    Raises:
        PluginError: a module or an entry point cannot be imported; an entry point is not a concrete subclass of
            `base`; a plugin lacks a class attribute that `base` declares; or two plugins have the same name.
    """
    plugins: dict[str, type[T]] = {}
    for plugin in (*_plugins_of_modules(package, base), *_plugins_of_entry_points(package, base)):
        other = plugins.setdefault(plugin.name, plugin)
        if other is not plugin:
            raise PluginError(
                f"{_full_name(other)} and {_full_name(plugin)} have the same name {plugin.name!r}; "
                "rename one of them, or uninstall its package"
            )
    return tuple(plugins.values())


def _plugins_of_modules(package: ModuleType, base: type[T]) -> Iterator[type[T]]:
    names = sorted(module.name for module in pkgutil.iter_modules(package.__path__))
    for name in names:
        if name.startswith("_"):
            continue
        module = _import(f"{package.__name__}.{name}")
        own_classes = [
            candidate
            for candidate in vars(module).values()
            if _is_subclass(candidate, base) and f"{candidate.__module__}.".startswith(f"{module.__name__}.")
        ]
        concrete = [candidate for candidate in own_classes if not inspect.isabstract(candidate)]
        if own_classes and not concrete:
            log.warning(
                "%s has no plugin: %s does not define %s",
                module.__file__,
                own_classes[-1].__name__,
                ", ".join(_undefined(own_classes[-1], base)),
            )
        for plugin in concrete:
            yield _checked(plugin, base, module.__file__ or module.__name__)


def _plugins_of_entry_points(package: ModuleType, base: type[T]) -> Iterator[type[T]]:
    for point in entry_points(group=package.__name__):
        source = _description(point)
        try:
            candidate = point.load()
        except Exception as error:
            raise PluginError(f"{source} cannot be loaded: {type(error).__name__}: {error}") from error
        if not _is_subclass(candidate, base):
            raise PluginError(f"{source} is {candidate!r}, expected a subclass of {_full_name(base)}")
        yield _checked(candidate, base, source)


def _import(name: str) -> ModuleType:
    try:
        return import_module(name)
    except Exception as error:
        spec = find_spec(name)
        source = name if spec is None else spec.origin
        raise PluginError(f"{source} cannot be imported: {type(error).__name__}: {error}") from error


def _is_subclass(candidate: object, base: type[T]) -> bool:
    return isinstance(candidate, type) and issubclass(candidate, base) and candidate is not base


def _checked(plugin: type[T], base: type[T], source: str) -> type[T]:
    """Return the plugin if it defines everything that `base` requires; else raise PluginError."""
    if undefined := _undefined(plugin, base):
        names = ", ".join(undefined)
        raise PluginError(
            f"{source}: {plugin.__name__} does not define {names}, which {_full_name(base)} requires"
        )
    return plugin


def _undefined(plugin: type[T], base: type[T]) -> list[str]:
    """Return the abstract methods and the class attributes without a default that the plugin does not define."""
    attributes = [
        name
        for name, annotation in inspect.get_annotations(base).items()
        if _is_class_variable(annotation) and not hasattr(plugin, name)
    ]
    return sorted([*getattr(plugin, "__abstractmethods__", ()), *attributes])


def _is_class_variable(annotation: object) -> bool:
    origin: object = get_origin(annotation)
    return origin is ClassVar


def _description(point: EntryPoint) -> str:
    distribution = "" if point.dist is None else f" of the installed package {point.dist.name!r}"
    return f"entry point {point.name!r} ({point.value}) in {point.group}{distribution}"


def _full_name(plugin: type[T]) -> str:
    return f"{plugin.__module__}.{plugin.__qualname__}"
