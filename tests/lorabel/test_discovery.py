"""Plugins are found in a package made for the test, and in installed packages with entry points."""

import logging
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from importlib import import_module, invalidate_caches
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import pytest

from lorabel.discovery import discover
from lorabel.errors import PluginError


class Animal(ABC):
    """The base class of the plugins in these tests."""

    name: ClassVar[str]
    legs: ClassVar[int] = 4

    @abstractmethod
    def sound(self) -> str:
        """Return what the animal says."""


HEAD = "from abc import abstractmethod\nfrom tests.lorabel.test_discovery import Animal\n"
CAT = 'class Cat(Animal):\n    name = "cat"\n    def sound(self): return "meow"\n'
DOG = 'class Dog(Animal):\n    name = "dog"\n    def sound(self): return "woof"\n'
SILENT = 'class Fish(Animal):\n    name = "fish"\n'


class Folder:
    """A folder on `sys.path`, with the package `animals` and packages that are installed beside it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.add("__init__", "")

    def add(self, module: str, *parts: str) -> Path:
        """Write a module of the package."""
        file = self.path / "animals" / f"{module}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(parts))
        return file

    def install(self, package: str, code: str, **entry_points: str) -> None:
        """Write what pip would: a module, and its metadata with entry points of the group `animals`."""
        (self.path / f"{package}.py").write_text(code)
        metadata = self.path / f"{package}-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        lines = [f"{name} = {value}\n" for name, value in entry_points.items()]
        (metadata / "entry_points.txt").write_text("".join(["[animals]\n", *lines]))

    @property
    def package(self) -> ModuleType:
        invalidate_caches()
        return import_module("animals")

    def names(self) -> list[str]:
        """Return the class names of the plugins that are found."""
        return [plugin.__name__ for plugin in discover(self.package, Animal)]  # type: ignore[type-abstract]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Folder]:
    monkeypatch.syspath_prepend(tmp_path)
    modules_before = set(sys.modules)
    yield Folder(tmp_path)
    for name in set(sys.modules) - modules_before:
        if name.partition(".")[0] in ("animals", "zoo"):
            del sys.modules[name]


def test_plugins_of_all_modules_are_found_in_the_order_of_the_modules(folder: Folder) -> None:
    folder.add("b", HEAD, CAT)
    folder.add("a", HEAD, DOG)
    assert folder.names() == ["Dog", "Cat"]


def test_a_module_that_begins_with_an_underscore_is_not_searched(folder: Folder) -> None:
    folder.add("_shared", HEAD, CAT)
    folder.add("a", HEAD, "from animals._shared import Cat\n", "class Lion(Cat):\n    name = 'lion'\n")
    assert folder.names() == ["Lion"]


def test_a_class_that_a_module_imports_is_found_once(folder: Folder) -> None:
    folder.add("a", HEAD, CAT)
    folder.add("b", HEAD, "from animals.a import Cat\n", DOG)
    assert folder.names() == ["Cat", "Dog"]


def test_a_plugin_may_be_a_folder_whose_init_imports_it(folder: Folder) -> None:
    folder.add("big/__init__", "from animals.big.cat import Cat\n")
    folder.add("big/cat", HEAD, CAT)
    assert folder.names() == ["Cat"]


def test_an_abstract_class_beside_its_subclass_is_no_plugin(
    folder: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    folder.add("a", HEAD, "class Pet(Animal):\n    pass\n", CAT.replace("Animal", "Pet"))
    assert folder.names() == ["Cat"]
    assert caplog.records == []


def test_a_module_with_an_abstract_class_only_is_skipped_with_a_warning(
    folder: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    file = folder.add("a", HEAD, SILENT)
    with caplog.at_level(logging.WARNING):
        assert folder.names() == []
    assert caplog.messages == [f"{file} has no plugin: Fish does not define sound"]


def test_a_class_without_a_required_class_attribute_is_an_error(folder: Folder) -> None:
    file = folder.add("a", HEAD, CAT.replace('    name = "cat"\n', ""))
    with pytest.raises(PluginError) as caught:
        folder.names()
    assert str(caught.value) == f"{file}: Cat does not define name, which {__name__}.Animal requires"


def test_a_module_with_a_syntax_error_is_named_by_its_file(folder: Folder) -> None:
    folder.add("a", HEAD, CAT)
    file = folder.add("broken", "class Dog(:\n")
    with pytest.raises(PluginError) as caught:
        folder.names()
    assert str(caught.value).startswith(f"{file} cannot be imported: SyntaxError: invalid syntax")


def test_a_module_with_a_missing_dependency_is_named_by_its_file(folder: Folder) -> None:
    file = folder.add("broken", "import no_such_package\n")
    with pytest.raises(PluginError) as caught:
        folder.names()
    assert str(caught.value) == (
        f"{file} cannot be imported: ModuleNotFoundError: No module named 'no_such_package'"
    )
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


def test_a_plugin_of_an_installed_package_is_found_after_our_own(folder: Folder) -> None:
    folder.add("z", HEAD, CAT)
    folder.install("zoo", HEAD + DOG, dog="zoo:Dog")
    assert folder.names() == ["Cat", "Dog"]


def test_two_entry_points_with_the_same_class_count_as_one_plugin(folder: Folder) -> None:
    folder.install("zoo", HEAD + DOG, dog="zoo:Dog", hound="zoo:Dog")
    assert folder.names() == ["Dog"]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("zoo:number", r"is 7, expected a subclass of {base}"),
        ("zoo:Stone", r"is <class 'zoo.Stone'>, expected a subclass of {base}"),
        ("zoo:Animal", r"is <class '{base}'>, expected a subclass of {base}"),
        ("zoo:Fish", r": Fish does not define sound, which {base} requires"),
        ("zoo:Lion", r"cannot be loaded: AttributeError: module 'zoo' has no attribute 'Lion'"),
        ("no_such_package:Lion", r"cannot be loaded: ModuleNotFoundError: No module named 'no_such_package'"),
    ],
)
def test_an_entry_point_that_is_no_plugin_is_named_with_its_package(
    folder: Folder, value: str, message: str
) -> None:
    folder.install("zoo", HEAD + SILENT + "number = 7\nclass Stone: pass\n", guest=value)
    with pytest.raises(PluginError) as caught:
        folder.names()
    source = f"entry point 'guest' ({value}) in animals of the installed package 'zoo'"
    separator = "" if message.startswith(":") else " "
    assert str(caught.value) == source + separator + message.format(base=f"{__name__}.Animal")


def test_two_plugins_with_the_same_name_are_an_error(folder: Folder) -> None:
    folder.add("a", HEAD, DOG)
    folder.install("zoo", HEAD + DOG, dog="zoo:Dog")
    with pytest.raises(PluginError, match=r"animals\.a\.Dog and zoo\.Dog have the same name 'dog'; rename"):
        folder.names()
