"""The files and modules that documents, docstrings and comments name are there."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = "lorabel|backend|workers|model_server|tests|benchmarks|docs|docker"
PATH = re.compile(rf"(?<![\w/.:-])(?:{FOLDERS})/[\w./-]*\w")
DOTTED = re.compile(r"`((?:lorabel|backend|workers|model_server|benchmarks)(?:\.\w+)+)`")
# Not files of the repository: what a newcomer adds, the database of an installation.
PATTERNS = re.compile(r"NAME\.py|\.db$")
# The name of the backend's host in docker-compose.yml.
HOSTS = {"backend.internal"}
# Says where things were when it was written, and keeps its words.
HISTORY = {"CHANGELOG.md"}


def _texts() -> list[Path]:
    sources = [path for folder in FOLDERS.split("|") for path in (ROOT / folder).rglob("*.py")]
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "lorabel/demo/README.md"]
    builds = [ROOT / name for name in ("Makefile", "Dockerfile", "docker-compose.yml", "docker-compose.gpu.yml")]
    return [path for path in [*sources, *pages, *builds] if path.name not in HISTORY]


TEXTS = _texts()


@pytest.mark.parametrize("folder", sorted({path.parent.relative_to(ROOT).as_posix() for path in TEXTS}))
def test_the_paths_that_are_named_exist(folder: str) -> None:
    missing = {
        f"{path.name}: {name}"
        for path in TEXTS
        if path.parent == ROOT / folder
        for name in PATH.findall(path.read_text())
        if not PATTERNS.search(name) and not _is_path(name)
    }
    assert missing == set()


@pytest.mark.parametrize("folder", sorted({path.parent.relative_to(ROOT).as_posix() for path in TEXTS}))
def test_the_modules_and_names_that_are_named_exist(folder: str) -> None:
    missing = {
        f"{path.name}: {name}"
        for path in TEXTS
        if path.parent == ROOT / folder
        for name in DOTTED.findall(path.read_text())
        if name not in HOSTS and not _is_defined(name)
    }
    assert missing == set()


def _is_path(name: str) -> bool:
    """Also a decision by its number: docs/decisions/0009."""
    return (ROOT / name).exists() or any(ROOT.glob(f"{name}-*.md"))


def _is_defined(dotted: str) -> bool:
    """Whether it is a package, a module, or a name (of a class in) a module."""
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        stem = ROOT.joinpath(*parts[:length])
        if stem.with_suffix(".py").exists():
            return set(parts[length:]) <= _names(stem.with_suffix(".py"))
        if stem.is_dir():
            return length == len(parts) or (stem / "__main__.py").exists()
    return False


@cache
def _names(path: Path) -> frozenset[str]:
    """What a module defines or imports, and what its classes define."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return frozenset(names)
