"""Learning curves as a table, as JSON and as a picture."""

import json
import re
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.machine import ROOT, Machine

LORABEL, SCRATCH, REGRESSION = "Lorabel", "from scratch", "logistic regression"
COLOURS = {LORABEL: "#2a9d5c", SCRATCH: "#c8442f", REGRESSION: "#5b7fa6"}
PAGE, PICTURE, FIGURES = "learning.md", "pictures/learning-curves.png", "learning-curves.json"
PLACE = re.compile(r"(<!-- curves -->\n).*?(<!-- end of curves -->)", re.DOTALL)
PANEL_INCHES = 4.2


@dataclass(frozen=True)
class Point:
    """`accuracy` on the test tasks; `seconds` of the last run."""

    course: str
    way: str
    seed: int
    annotations: int
    accuracy: float
    seconds: float


def text(where: Machine, points: Sequence[Point]) -> str:
    """Markdown: for each data set and way the median accuracy over the seeds, with the lowest and the highest."""
    seeds = len({point.seed for point in points})
    lines = [f"{where.line}. {seeds} seeds."]
    for course in _courses(points):
        counts = sorted({point.annotations for point in points if point.course == course})
        lines += ["", f"**{course}**", "", _line(["annotations", *(f"{count}" for count in counts)])]
        lines.append(_line(["---"] * (len(counts) + 1)))
        for way in COLOURS:
            lines.append(_line([f"{way}", *(_accuracy(points, course, way, count) for count in counts)]))
        for way in (LORABEL, SCRATCH):
            lines.append(_line([f"{way}, seconds", *(_seconds(points, course, way, count) for count in counts)]))
    return "\n".join([*lines, ""])


def write(where: Machine, points: Sequence[Point], folder: Path) -> None:
    found = {"machine": asdict(where), "points": [asdict(point) for point in points]}
    (folder / Path(FIGURES).name).write_text(json.dumps(found, indent=1) + "\n")
    draw(where, points, folder / Path(PICTURE).name)


def write_docs(where: Machine, points: Sequence[Point]) -> None:
    """Into docs/learning.md, with JSON and picture beside it. Raises ValueError if the page has no place."""
    page = ROOT / "docs" / PAGE
    filled, count = PLACE.subn(lambda match: match[1] + text(where, points) + match[2], page.read_text())
    if count != 1:
        raise ValueError(f"{page.name} has {count} places `<!-- curves -->`, expected one")
    page.write_text(filled)
    write(where, points, ROOT / "docs")
    (ROOT / "docs" / Path(PICTURE).name).rename(ROOT / "docs" / PICTURE)


def draw(where: Machine, points: Sequence[Point], path: Path) -> None:
    """One panel for each data set: the median, and the band from the lowest to the highest seed."""
    courses = _courses(points)
    shape = Figure(figsize=(PANEL_INCHES * len(courses), PANEL_INCHES), layout="constrained")
    panels = shape.subplots(1, len(courses), squeeze=False, sharey=True)[0]
    for axes, course in zip(panels, courses, strict=True):
        for way, colour in COLOURS.items():
            counts = sorted({p.annotations for p in points if (p.course, p.way) == (course, way)})
            found = [_accuracies(points, course, way, count) for count in counts]
            axes.plot(counts, [statistics.median(one) for one in found], color=colour, marker="o", label=way)
            axes.fill_between(
                counts, [min(one) for one in found], [max(one) for one in found], color=colour, alpha=0.2
            )
        axes.set_title(course, fontsize=10)
        axes.set_xlabel("annotations")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("accuracy on tasks that nobody annotated")
    panels[0].set_ylim(0, 1.02)
    panels[-1].legend(loc="lower right", fontsize=8)
    shape.suptitle(where.line, fontsize=6)
    shape.savefig(path, dpi=110)


def _courses(points: Sequence[Point]) -> list[str]:
    return list(dict.fromkeys(point.course for point in points))


def _accuracies(points: Sequence[Point], course: str, way: str, count: int) -> list[float]:
    return [p.accuracy for p in points if (p.course, p.way, p.annotations) == (course, way, count)]


def _accuracy(points: Sequence[Point], course: str, way: str, count: int) -> str:
    found = _accuracies(points, course, way, count)
    return f"{statistics.median(found):.2f} ({min(found):.2f} to {max(found):.2f})" if found else ""


def _seconds(points: Sequence[Point], course: str, way: str, count: int) -> str:
    found = [p.seconds for p in points if (p.course, p.way, p.annotations) == (course, way, count)]
    return f"{statistics.median(found):.1f}" if found and count else ""


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
