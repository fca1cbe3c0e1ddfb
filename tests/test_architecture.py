"""The arrows between the packages, kept by reading the imports; and the rules that a reader relies on."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("backend", "lorabel", "model_server", "workers")
TORCH = ("torch", "torchvision", "open_clip", "peft", "transformers", "accelerate", "safetensors", "timm")
MAY_IMPORT_TORCH = (
    "lorabel/families/",
    "lorabel/demo/",
    "lorabel/families/device.py",
    "lorabel/families/encoders/attention.py",
    "lorabel/families/encoders/encoder.py",
    "lorabel/families/encoders/items.py",
    "lorabel/families/encoders/heads/",
    "lorabel/families/encoders/label_logits.py",
    "lorabel/families/encoders/pooling.py",
    "lorabel/families/spans/word_spans.py",
    "model_server/",
    "workers/",
)
# Beside settings.py: they hand the environment on to processes that they start.
MAY_SEE_THE_ENVIRONMENT = (
    "lorabel/settings.py",
    "lorabel/commands/supervisor.py",
    "lorabel/demo/",
    "backend/gunicorn.conf.py",
)
MOST_LINES = 400


def _files(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _imported(path: Path) -> Iterator[str]:
    """The first part of every module that a file imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0]


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_itself_and_lorabel_only(package: str) -> None:
    others = set(PACKAGES) - {package, "lorabel"}
    assert {
        _name(path): sorted(found) for path in _files(package) if (found := others & set(_imported(path)))
    } == {}


def test_nothing_of_ours_imports_the_tests() -> None:
    assert [_name(path) for path in _files(*PACKAGES) if "tests" in _imported(path)] == []


def test_torch_is_imported_only_where_a_model_is() -> None:
    found = [_name(path) for path in _files(*PACKAGES) if set(TORCH) & set(_imported(path))]
    assert [name for name in found if not name.startswith(MAY_IMPORT_TORCH)] == []


@pytest.mark.parametrize(
    "module", ["backend.app", "lorabel.commands.cli", "lorabel.commands.supervisor", "workers.health"]
)
def test_torch_is_not_loaded_by(module: str) -> None:
    program = f"import sys, {module}; print(sorted({set(TORCH)!r} & sys.modules.keys()))"
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


def _sees_environment(path: Path) -> bool:
    return any(
        isinstance(node, ast.Attribute)
        and node.attr in ("environ", "getenv", "environb")
        and isinstance(node.value, ast.Name)
        and node.value.id == "os"
        for node in ast.walk(ast.parse(path.read_text()))
    )
