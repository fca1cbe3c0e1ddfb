"""The arrows between packages and rooms, kept by reading the imports; and the rules that a reader relies on."""

import ast
import functools
import subprocess
import sys
from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("backend", "lorabel", "model_server", "workers")
# The rooms of `lorabel`, from the ground up: a room imports only rooms before it. "" is `lorabel/` itself.
ROOMS = (
    "",
    "http_server",
    "media",
    "labeling",
    "evaluation",
    "families",
    "problems",
    "database",
    "label_studio",
    "inference",
    "search",
    "explanations",
    "curation",
    "commands",
    "demo",
)
# The command `lorabel demo` imports the demo when somebody asks for it.
UPWARD = {("lorabel.commands.cli", "lorabel.demo.run")}
TORCH = ("torch", "torchvision", "open_clip", "peft", "transformers", "accelerate", "safetensors", "timm")
LONG_TO_IMPORT = {*TORCH, "scipy", "label_studio_sdk.label_interface"}
MAY_IMPORT_TORCH = ("lorabel/families/", "lorabel/demo/", "model_server/", "workers/")
# Beside settings.py: they hand the environment on to processes that they start.
MAY_SEE_THE_ENVIRONMENT = (
    "lorabel/settings.py",
    "lorabel/commands/model_folder.py",
    "lorabel/commands/child.py",
    "lorabel/redactors.py",
    "lorabel/demo/",
    "backend/gunicorn.conf.py",
)
MOST_LINES = 400
# Read by those who write plugins, call REST or change what computes: every public function says what it does.
DOCUMENTED = (
    "lorabel/contracts.py",
    "lorabel/feature_contracts.py",
    "lorabel/problems",
    "lorabel/families",
    "model_server/engine.py",
    "model_server/adapters.py",
    "backend",
)


def _files(*folders: str) -> list[Path]:
    """The Python files of folders; a file stands for itself."""
    return [
        path
        for name in folders
        for path in ([ROOT / name] if name.endswith(".py") else sorted((ROOT / name).rglob("*.py")))
    ]


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@functools.cache
def _tree(path: Path) -> ast.Module:
    """A file's syntax tree, for all tests."""
    return ast.parse(path.read_text())


def _imported_modules(tree: ast.Module, modules: frozenset[str]) -> set[str]:
    """The full names of what a file imports, also inside functions and for type checkers.

    Args:
        modules: names that are modules, to tell `from package import module` from `from module import name`.
    """
    imported: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            full_names = {f"{node.module}.{alias.name}" for alias in node.names}
            imported |= full_names & modules
            if full_names - modules:
                imported.add(node.module)
    return imported


@functools.cache
def _imports() -> dict[str, set[str]]:
    """Module -> the modules of ours that it imports."""
    paths = {_module(path): path for path in _files(*PACKAGES)}
    modules = frozenset(paths)
    return {name: _imported_modules(_tree(path), modules) & modules for name, path in paths.items()}


def _room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 2 or parts[-1] in ROOMS else ""


def _upward(imports: Mapping[str, set[str]]) -> set[tuple[str, str]]:
    """The imports from a room of `lorabel` to a room above it."""
    floors = {room: floor for floor, room in enumerate(ROOMS)}
    ours = {module: imported for module, imported in imports.items() if module.split(".")[0] == "lorabel"}
    return {
        (module, other)
        for module, imported in ours.items()
        for other in imported
        if other.startswith("lorabel.") and floors[_room(other)] > floors[_room(module)]
    }


def _circle(imports: Mapping[str, set[str]]) -> list[str]:
    """Modules that import each other in a circle; empty if there is none. A package's `__init__` is left out: it
    imports nothing, and every module of it depends on it."""
    try:
        tuple(TopologicalSorter(imports).static_order())
    except CycleError as error:
        circle: list[str] = error.args[1]
        return circle
    return []


@functools.cache
def _imported(path: Path) -> frozenset[str]:
    """The first part of every module that a file imports, also inside functions."""
    return frozenset(name.split(".")[0] for name in _imported_modules(_tree(path), frozenset()))


def test_every_room_is_on_the_list_of_floors() -> None:
    rooms = {path.name for path in (ROOT / "lorabel").iterdir() if (path / "__init__.py").exists()}
    assert rooms == set(ROOMS) - {""}


def test_a_room_imports_only_rooms_below_it() -> None:
    assert _upward(_imports()) == UPWARD


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert _circle(_imports()) == []


def test_an_upward_import_and_a_circle_are_found() -> None:
    """The two tests above can fail: both faults are put in here."""
    upward = _imports() | {"lorabel.media.fetching": {"lorabel.database.store"}}
    assert _upward(upward) - UPWARD == {("lorabel.media.fetching", "lorabel.database.store")}
    modules = frozenset({"workers.services", "workers.lookahead"})
    lazily = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from workers import lookahead\n"
    called = "def run():\n    from workers.services import Services\n"
    circle = {
        "workers.services": _imported_modules(ast.parse(lazily), modules) & modules,
        "workers.lookahead": _imported_modules(ast.parse(called), modules),
    }
    assert set(_circle(circle)) == modules


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_itself_and_lorabel_only(package: str) -> None:
    others = set(PACKAGES) - {package, "lorabel"}
    assert {_name(path): sorted(found) for path in _files(package) if (found := others & _imported(path))} == {}


def test_nothing_of_ours_imports_the_tests() -> None:
    assert [_name(path) for path in _files(*PACKAGES) if "tests" in _imported(path)] == []


def test_torch_is_imported_only_where_a_model_is() -> None:
    found = [_name(path) for path in _files(*PACKAGES) if set(TORCH) & _imported(path)]
    assert [name for name in found if not name.startswith(MAY_IMPORT_TORCH)] == []


def test_what_takes_long_to_import_is_not_loaded_at_the_start_of_what_serves_no_model() -> None:
    modules = "backend.app, lorabel.commands.cli, lorabel.commands.supervisor, workers.health, workers.worker"
    program = f"import sys, {modules}; print(sorted({LONG_TO_IMPORT!r} & sys.modules.keys()))"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    assert ended.stdout == "[]\n"


def test_the_environment_is_read_in_settings_alone() -> None:
    found = [_name(path) for path in _files(*PACKAGES) if _sees_environment(path)]
    assert [name for name in found if not name.startswith(MAY_SEE_THE_ENVIRONMENT)] == []


def test_no_file_is_longer_than_it_should_be() -> None:
    files = _files(*PACKAGES, "tests", "benchmarks")
    lengths = {_name(path): len(path.read_text().splitlines()) for path in files}
    assert {name: length for name, length in lengths.items() if length > MOST_LINES} == {}


def test_no_file_is_named_for_what_it_is_not() -> None:
    names = {path.stem for path in _files(*PACKAGES, "tests", "benchmarks")}
    assert names & {"utils", "util", "helpers", "helper", "common", "misc"} == set()


@pytest.mark.parametrize("path", _files(*DOCUMENTED), ids=_name)
def test_public_functions_and_classes_have_docstrings(path: Path) -> None:
    tree = _tree(path)
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]
    assert [
        f"{node.lineno}: {node.name}"
        for scope in (tree, *classes)
        for node in scope.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and ast.get_docstring(node) is None
    ] == []


def _sees_environment(path: Path) -> bool:
    return any(
        isinstance(node, ast.Attribute)
        and node.attr in ("environ", "getenv", "environb")
        and isinstance(node.value, ast.Name)
        and node.value.id == "os"
        for node in ast.walk(_tree(path))
    )
