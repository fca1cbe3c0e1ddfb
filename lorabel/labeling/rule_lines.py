"""The lines of a file of rules that its faults are about, for people who edit it.

`read_rules`, `bind_rules` and `require_fit` name rule and field in the first words of a fault.
"""

import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

HEADER = re.compile(r"\s*\[\[\s*(\w+)\s*\]\]")
LINE = re.compile(r"\bline (\d+)")
FIELD = re.compile(r", (\w+)")
NO_TOML = "the file of rules "


@dataclass(frozen=True)
class PlacedFault:
    """A fault, and the line that it is about, from 1; None if it is about no single line."""

    line: int | None
    message: str


@dataclass(frozen=True)
class _Rule:
    """A rule of the file. `lines`: its first line and the one after its last, from 0."""

    kind: str
    number: int
    name: Any
    lines: range


def place_faults(text: str, faults: Sequence[str]) -> list[PlacedFault]:
    """Find the line of each fault.

    Args:
        text: the file.
        faults: as RulesError has them, a line for each.
    """
    rules = list(_rules(text))
    return [PlacedFault(_line_of(text.splitlines(), rules, fault), fault) for fault in faults]


def _line_of(lines: Sequence[str], rules: Sequence[_Rule], fault: str) -> int | None:
    if fault.startswith(NO_TOML):
        line = LINE.search(fault)
        return int(line[1]) if line else None
    for rule in rules:
        numbered = f"[[{rule.kind}]] {rule.number}"
        called = f"[[{rule.kind}]] ({rule.name!r}):"
        if fault.startswith((f"{numbered}:", f"{numbered},", f"{numbered} (")):
            rest = fault.removeprefix(numbered).removeprefix(f" ({rule.name!r})")
            field = FIELD.match(rest)
            return _line_with(lines, rule, field[1] if field else None)
        if fault.startswith((called, f"rules {rule.name!r} and ")):
            return _line_with(lines, rule, "name")
    return None


def _line_with(lines: Sequence[str], rule: _Rule, field: str | None) -> int:
    """The line in which a field of a rule is set; its first line if there is none."""
    for number in rule.lines if field is not None else ():
        if re.match(rf"\s*{field}\s*=", lines[number]):
            return number + 1
    return rule.lines.start + 1


def _rules(text: str) -> Iterator[_Rule]:
    """The rules of a file with their lines; none if it is no TOML, or if lines cannot be told apart."""
    try:
        content = tomllib.loads(text)
    except (ValueError, RecursionError):
        return
    lines = text.splitlines()
    begins = [(number, header[1]) for number, line in enumerate(lines) if (header := HEADER.match(line))]
    seen: dict[str, int] = {}
    for index, (number, kind) in enumerate(begins):
        seen[kind] = seen.get(kind, 0) + 1
        tables = content.get(kind)
        if isinstance(tables, list) and len(tables) == sum(each == kind for _, each in begins):
            table = tables[seen[kind] - 1]
            name = table.get("name") if isinstance(table, dict) else None
            end = begins[index + 1][0] if index + 1 < len(begins) else len(lines)
            yield _Rule(kind, seen[kind], name, range(number, end))
