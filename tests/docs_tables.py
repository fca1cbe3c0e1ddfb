"""The tables, lists and pages that are made from the code. `make docs` writes them.

<!-- table: settings -->
...
<!-- end of table -->
"""

import ast
import re
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import typer
from pydantic.fields import FieldInfo

from backend.operations import OPERATIONS
from lorabel.commands.cli import app
from lorabel.families.loading import base_model_types, trained_types
from lorabel.problems.binding import problem_types
from lorabel.ray_settings import RaySettings
from lorabel.settings import Settings
from lorabel.tls_settings import TlsSettings
from tests import problems_page
from tests.problems_page import table

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", ROOT / "docs" / "operations.md", ROOT / "docs" / "problems.md")
PAGES += (ROOT / ".env.example", ROOT / "docker-compose.yml")
TABLE = re.compile(r"(?<=<!-- table: )(\w+)( -->\n).*?(?=<!-- end of table -->)", re.DOTALL)
METRICS = ("Counter", "Gauge", "Histogram", "CounterMetricFamily", "GaugeMetricFamily")
NAMED_BY_OTHERS = MappingProxyType(
    {"models": "MODEL_<FAMILY>", "templates": "TEMPLATE_<PROBLEM>", "lora_kinds": "LORA_KIND_<FAMILY>"}
)
# Settings with a value of their own in docker-compose.yml.
SET_IN_COMPOSE = frozenset({"DATABASE_URL", "REDIS_URL", "DATA_DIR", "LABEL_STUDIO_URL"}) | frozenset(
    {"HOST", "PORT", "MODEL_SERVER_HOST", "MODEL_SERVER_URL"}
)
# Settings of commands that none of its services runs: `lorabel demo`, and `python -m model_server.ray_serve`; and
# those of TLS, since its services are on one machine.
NOT_IN_COMPOSE = (
    frozenset({"LABEL_STUDIO_PORT"})
    | frozenset(map(str.upper, RaySettings.model_fields))
    | frozenset(map(str.upper, TlsSettings.model_fields))
)
METRIC_FILES = (
    ("backend", "backend/metrics.py"),
    ("backend", "backend/state_metrics.py"),
    ("model server", "model_server/metrics.py"),
)


def _fields() -> list[tuple[str, FieldInfo]]:
    """All settings; those that `Settings` takes from other classes come last."""
    return sorted(Settings.model_fields.items(), key=lambda item: item[0] not in Settings.__annotations__)


def settings() -> str:
    rows = []
    for name, field in _fields():
        variable = NAMED_BY_OTHERS.get(name, name.upper())
        default = "" if name in NAMED_BY_OTHERS or field.default is None else str(field.default)
        what = (field.description or "").removeprefix(f"`{variable}`, ")
        rows.append((f"`{variable}`", f"`{default}`" if default else "", what[:1].upper() + what[1:]))
    return table(("variable", "default", "what it is"), rows)


def variables() -> dict[str, str]:
    """Every setting's environment variable -> what it is. Those that end with a name are there with each name."""
    described = {}
    for name, field in _fields():
        names = {
            "models": [f"MODEL_{family.name.upper()}" for family in base_model_types()],
            "templates": [f"TEMPLATE_{problem.name.upper()}" for problem in problem_types()],
            "lora_kinds": [f"LORA_KIND_{family.name.upper()}" for family in trained_types()],
        }.get(name, [name.upper()])
        example = r"`\w+_<\w+>`, e\.g\. `\w+`: "
        what = re.sub(example, "", field.description or "")
        default = "" if name in NAMED_BY_OTHERS or field.default in (None, "") else f" Default: {field.default}"
        described.update(dict.fromkeys(names, f"{what[:1].upper()}{what[1:]}{default}"))
    return described


def environment() -> str:
    """Of .env.example: the settings that docker-compose.yml passes on, each with a comment and without a value."""
    lines, last_comment = ["#\n"], ""
    for name, what in variables().items():
        if name not in SET_IN_COMPOSE | NOT_IN_COMPOSE:
            comment = textwrap.fill(what, 110, initial_indent="# ", subsequent_indent="# ")
            lines.append(f"{name}=\n" if comment == last_comment else f"\n{comment}\n{name}=\n")
            last_comment = comment
    return "".join([*lines, "\n# "])


def compose() -> str:
    """Of docker-compose.yml: the settings that it passes on."""
    names = [name for name in variables() if name not in SET_IN_COMPOSE | NOT_IN_COMPOSE]
    return "".join([*(f"  {name}: ${{{name}:-}}\n" for name in names), "  # "])


def commands() -> str:
    # typer brings its own click, whose classes are not those of the package.
    found: Mapping[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    rows = []
    for name, command in found.items():
        arguments = [p.name.upper() for p in command.params if p.param_type_name == "argument"]
        options = [p.opts[0] if p.required else f"[{p.opts[0]}]" for p in command.params if _is_option(p)]
        rows.append((f"`{' '.join(['lorabel', name, *arguments, *options])}`", command.help or ""))
    return table(("command", "what it does"), rows)


def rest() -> str:
    return table(
        ("request", "what it is for"), [(f"`{o.method.upper()} {o.path}`", o.summary) for o in OPERATIONS]
    )


def metrics() -> str:
    rows = []
    for process, path in METRIC_FILES:
        for call in ast.walk(ast.parse((ROOT / path).read_text())):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in METRICS:
                name, what, *labels = [ast.literal_eval(arg) for arg in call.args]
                labels += [ast.literal_eval(word.value) for word in call.keywords if word.arg == "labels"]
                kind = call.func.id.removesuffix("MetricFamily").lower()
                name = f"{name}_total" if kind == "counter" else name
                shown = f"{{{', '.join(labels[0])}}}" if labels else ""
                rows.append((process, f"`{name}{shown}`", kind, what.rstrip(".")))
    return table(("process", "metric", "kind", "what it counts"), rows)


TABLES: Mapping[str, Callable[[], str]] = MappingProxyType(
    {
        "settings": settings,
        "environment": environment,
        "compose": compose,
        "commands": commands,
        "rest": rest,
        "metrics": metrics,
        "problems": problems_page.problems,
        "attributes": problems_page.attributes,
        "templates": problems_page.templates,
    }
)


def fill_in(text: str) -> str:
    """The page with every marked table made anew. Raises KeyError for a table that nobody makes."""
    return TABLE.sub(lambda match: f"{match[1]}{match[2]}{TABLES[match[1]]()}", text)


def _is_option(parameter: Any) -> bool:
    return bool(parameter.param_type_name == "option") and parameter.name != "help"


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(fill_in(page.read_text()))
