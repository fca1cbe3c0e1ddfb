"""The tables and pages in README.md and docs/ that are made from the code. `make docs` writes them.

<!-- table: settings -->
...
<!-- end of table -->
"""

import ast
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import typer

from backend.openapi import OPERATIONS
from lorabel.commands.cli import app
from lorabel.settings import Settings
from tests import problems_page
from tests.problems_page import table

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", ROOT / "docs" / "operations.md", ROOT / "docs" / "problems.md")
TABLE = re.compile(r"(?<=<!-- table: )(\w+)( -->\n).*?(?=<!-- end of table -->)", re.DOTALL)
METRICS = ("Counter", "Gauge", "Histogram", "CounterMetricFamily", "GaugeMetricFamily")
NAMED_BY_OTHERS = MappingProxyType({"models": "MODEL_<FAMILY>", "templates": "TEMPLATE_<PROBLEM>"})
METRIC_FILES = {"backend": "backend/metrics.py", "model server": "model_server/metrics.py"}


def settings() -> str:
    rows = []
    for name, field in Settings.model_fields.items():
        variable = NAMED_BY_OTHERS.get(name, name.upper())
        default = "" if name in NAMED_BY_OTHERS or field.default is None else str(field.default)
        what = (field.description or "").removeprefix(f"`{variable}`, ")
        rows.append((f"`{variable}`", f"`{default}`" if default else "", what[:1].upper() + what[1:]))
    return table(("variable", "default", "what it is"), rows)


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
    for process, path in METRIC_FILES.items():
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
