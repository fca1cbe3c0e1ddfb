"""Reads docker-compose.yml as Docker Compose does: anchors merged, `${NAME:-default}` replaced.

Supports only the part of https://github.com/compose-spec/compose-spec/blob/main/12-interpolation.md that our files
use.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "docker-compose.yml"
GPU = ROOT / "docker-compose.gpu.yml"
VARIABLE = re.compile(r"\$\{(?P<name>\w+):(?P<kind>[-?])(?P<rest>[^}]*)\}")


class UnsetVariableError(Exception):
    """A variable that the file requires (`${NAME:?message}`) is not set."""


def read(path: Path) -> dict[str, Any]:
    content = yaml.safe_load(path.read_text())
    assert isinstance(content, dict)
    return content


def interpolate(value: Any, variables: Mapping[str, str]) -> Any:
    """Replace variables in every string of a value; raises UnsetVariableError."""
    if isinstance(value, dict):
        return {key: interpolate(item, variables) for key, item in value.items()}
    if isinstance(value, list):
        return [interpolate(item, variables) for item in value]
    return VARIABLE.sub(lambda match: _value(match, variables), value) if isinstance(value, str) else value


def variables_in(path: Path) -> set[str]:
    return {match["name"] for match in VARIABLE.finditer(path.read_text())}


def _value(match: re.Match[str], variables: Mapping[str, str]) -> str:
    value = variables.get(match["name"], "")
    if value or match["kind"] == "-":
        return value or match["rest"]
    raise UnsetVariableError(match["rest"])
