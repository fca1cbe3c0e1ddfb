"""Writes the sections of a run as a table for the screen, as Markdown and as JSON."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.machine import Machine
from benchmarks.rows import Goal, Row, Section

HEAD = ("what", "measured", "lowest", "highest", "unit", "goal", "")
MET, MISSED = "met", "MISSED"


def text(machine: Machine, sections: Sequence[Section]) -> str:
    """A table with aligned columns for each subject, and the summary."""
    cells = [_cells(row) for section in sections for row in section.rows]
    widths = [max(len(line[i]) for line in (HEAD, *cells)) for i in range(len(HEAD))]
    lines = [machine.line]
    for section in sections:
        lines += ["", f"{section.title} ({section.seconds:.0f} s)", _aligned(HEAD, widths)]
        lines += [_aligned(_cells(row), widths) for row in section.rows]
        lines += [f"BROKE OFF: {section.error}"] if section.error else []
    return "\n".join([*lines, "", summary(sections)])


def markdown(machine: Machine, sections: Sequence[Section]) -> str:
    """The tables. A subject of another run has the machine and commit of that run."""
    lines = [f"{machine.line}."]
    for section in sections:
        lines += ["", f"**{section.title}**", ""]
        lines += [f"{section.machine}.", ""] if section.machine not in ("", machine.line) else []
        if section.rows:
            lines += [_line(HEAD), _line(["---"] * len(HEAD)), *(_line(_cells(row)) for row in section.rows)]
        lines += ["", f"Broke off: {section.error}"] if section.error else []
    return "\n".join([*lines, "", summary(sections), ""])


def as_json(machine: Machine, sections: Sequence[Section]) -> str:
    records = [asdict(section) | {"rows": [_record(row) for row in section.rows]} for section in sections]
    return json.dumps({"machine": asdict(machine), "sections": records}, indent=1) + "\n"


def from_json(text: str) -> list[Section]:
    """The sections of `as_json`."""
    record = json.loads(text)
    first = Machine(**record["machine"]).line
    return [
        Section(
            **section | {"machine": section.get("machine") or first, "rows": tuple(map(_row, section["rows"]))}
        )
        for section in record["sections"]
    ]


def summary(sections: Sequence[Section]) -> str:
    """How many goals were met, and the names of the missed goals and of the subjects that broke off."""
    judged = [row for section in sections for row in section.rows if row.goal is not None]
    missed = [row.name for row in judged if not row.is_met]
    broken = [section.subject for section in sections if section.error]
    line = f"{len(judged) - len(missed)} of {len(judged)} goals met"
    if missed:
        line += f"; missed: {'; '.join(missed)}"
    return line + (f"; broke off: {', '.join(broken)}" if broken else "")


def figure(value: float) -> str:
    """The value with about three significant digits: 1,234 and 56.7 and 0.123."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}" if abs(value) >= 1 else f"{value:.3f}"


def _cells(row: Row) -> tuple[str, ...]:
    spread = ("", "") if row.low is None or row.high is None else (figure(row.low), figure(row.high))
    verdict = "" if row.is_met is None else MET if row.is_met else MISSED
    name = f"{row.name} ({row.note})" if row.note else row.name
    return name, figure(row.value), *spread, row.unit, _goal(row.goal), verdict


def _goal(goal: Goal | None) -> str:
    return "" if goal is None else f"{goal.comparison} {goal.limit:,g}"


def _record(row: Row) -> dict[str, Any]:
    return asdict(row) | {"is_met": row.is_met}


def _row(record: dict[str, Any]) -> Row:
    fields = {name: value for name, value in record.items() if name != "is_met"}
    return Row(**fields | {"goal": record["goal"] and Goal(**record["goal"])})


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    """A line of the table: text aligned to the left, figures to the right."""
    first, *figures, unit, goal, verdict = cells
    shown = [first.ljust(widths[0])]
    shown += [cell.rjust(width) for cell, width in zip(figures, widths[1:], strict=False)]
    shown += [unit.ljust(widths[-3]), goal.ljust(widths[-2]), verdict]
    return "  ".join(shown).rstrip()


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
