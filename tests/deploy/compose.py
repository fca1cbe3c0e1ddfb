"""docker-compose.yml as the containers see it: anchors merged, `${NAME:-default}` filled in.

Only what our files use of https://github.com/compose-spec/compose-spec/blob/main/12-interpolation.md.
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
    """A variable that the file demands (`${NAME:?message}`) is not set."""


def read(path: Path) -> dict[str, Any]:
    found = yaml.safe_load(path.read_text())
    assert isinstance(found, dict)
    return found


def interpolate(value: Any, variables: Mapping[str, str]) -> Any:
    """Raises UnsetVariableError."""
    if isinstance(value, dict):
        return {key: interpolate(each, variables) for key, each in value.items()}
    if isinstance(value, list):
        return [interpolate(each, variables) for each in value]
    return VARIABLE.sub(lambda match: _value(match, variables), value) if isinstance(value, str) else value


def variables_in(path: Path) -> set[str]:
    return {match["name"] for match in VARIABLE.finditer(path.read_text())}


def _value(match: re.Match[str], variables: Mapping[str, str]) -> str:
    found = variables.get(match["name"], "")
    if found or match["kind"] == "-":
        return found or match["rest"]
    raise UnsetVariableError(match["rest"])
