"""Draws the figures: a panel of how far each goal was reached, then a panel for each subject and unit."""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from benchmarks.machine import Machine
from benchmarks.report import figure
from benchmarks.rows import Row, Section

MET, MISSED, PLAIN, SPREAD = "#2a9d5c", "#c8442f", "#5b7fa6", "#333333"
LEAST_ROWS = 2
ROW_INCHES = 0.27
PANEL_INCHES = 0.9
WIDTH_INCHES = 12.0
WIDEST_LINEAR = 30.0


def draw(machine: Machine, sections: Sequence[Section], path: Path) -> None:
    goals = [row for section in sections for row in section.rows if row.goal is not None]
    panels = _panels(sections)
    heights = [len(rows) + PANEL_INCHES / ROW_INCHES for rows in (goals, *(rows for _, rows in panels))]
    size = (WIDTH_INCHES, ROW_INCHES * sum(heights) + PANEL_INCHES)
    picture = Figure(figsize=size, layout="constrained")
    axes = picture.subplots(len(heights), 1, squeeze=False, gridspec_kw={"height_ratios": heights})
    _draw_goals(axes[0, 0], goals)
    for index, (title, rows) in enumerate(panels, 1):
        _draw_bars(axes[index, 0], title, rows)
    picture.suptitle(machine.line, fontsize=8)
    picture.savefig(path, dpi=110)


def _panels(sections: Sequence[Section]) -> list[tuple[str, list[Row]]]:
    """Title and rows of each panel: rows of one subject with the same unit, so that their bars can be compared.

    Ratios (unit `x`) are left out, since most of them have a goal and are drawn there.
    """
    panels = []
    for section in sections:
        sorted_rows = sorted(section.rows, key=lambda row: row.unit)
        for unit, group in groupby(sorted_rows, key=lambda row: row.unit):
            rows = list(group)
            if len(rows) >= LEAST_ROWS and unit != "x":
                panels.append((f"{section.title}, {unit}", rows))
    return panels


def _draw_goals(axes: Axes, rows: Sequence[Row]) -> None:
    """Draw the margin of each goal: a bar to the right of 1 is a goal that is met."""
    margins = [row.goal.margin(row.value) if row.goal else 0.0 for row in rows]
    colours = [MET if row.is_met else MISSED for row in rows]
    axes.barh(range(len(rows)), [margin - 1 for margin in margins], left=1, color=colours, log=True)
    axes.axvline(1.0, color=SPREAD, linewidth=1)
    _label_decades(axes)
    for index, row in enumerate(rows):
        goal = f"{row.goal.comparison} {row.goal.limit:g}" if row.goal else ""
        axes.annotate(
            f"{figure(row.value)} {row.unit}, goal {goal}",
            (max(1.0, margins[index]), index),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=7,
        )
    axes.margins(x=0.3)
    _name_bars(axes, rows)
    axes.set_title("goals: how many times reached (green: met, red: missed)", fontsize=9, loc="left")


def _draw_bars(axes: Axes, title: str, rows: Sequence[Row]) -> None:
    values = [row.value for row in rows]
    axes.barh(range(len(rows)), values, color=PLAIN)
    for index, row in enumerate(rows):
        if row.low is not None and row.high is not None:
            axes.plot([row.low, row.high], [index, index], color=SPREAD, linewidth=1.2)
        axes.annotate(
            figure(row.value),
            (max(row.value, row.high or 0.0), index),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=7,
        )
    if min(values) > 0 and max(values) > WIDEST_LINEAR * min(values):
        axes.set_xscale("log")
        _label_decades(axes)
    axes.margins(x=0.1)
    _name_bars(axes, rows)
    axes.set_title(title, fontsize=9, loc="left")


def _label_decades(axes: Axes) -> None:
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())


def _name_bars(axes: Axes, rows: Sequence[Row]) -> None:
    axes.set_yticks(range(len(rows)), [row.name for row in rows], fontsize=7)
    axes.tick_params(axis="x", labelsize=7)
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
