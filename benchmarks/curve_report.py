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
    """The accuracy on the test tasks after a number of annotations, and the seconds of the last run."""

    course: str
    way: str
    seed: int
    annotations: int
    accuracy: float
    seconds: float


def text(machine: Machine, points: Sequence[Point]) -> str:
    """Markdown: for each data set and way the median accuracy over the seeds, with the lowest and the highest."""
    seeds = len({point.seed for point in points})
    lines = [f"{machine.line}. {seeds} seeds."]
    for course in _courses(points):
        counts = sorted({point.annotations for point in points if point.course == course})
        lines += ["", f"**{course}**", "", _line(["annotations", *(f"{count}" for count in counts)])]
        lines.append(_line(["---"] * (len(counts) + 1)))
        for way in COLOURS:
            lines.append(_line([f"{way}", *(_accuracy(points, course, way, count) for count in counts)]))
        for way in (LORABEL, SCRATCH):
            lines.append(_line([f"{way}, seconds", *(_seconds(points, course, way, count) for count in counts)]))
    return "\n".join([*lines, ""])


def write(machine: Machine, points: Sequence[Point], folder: Path) -> None:
    """Write JSON and picture into the folder."""
    figures = {"machine": asdict(machine), "points": [asdict(point) for point in points]}
    (folder / Path(FIGURES).name).write_text(json.dumps(figures, indent=1) + "\n")
    draw(machine, points, folder / Path(PICTURE).name)


def write_docs(machine: Machine, points: Sequence[Point]) -> None:
    """Write the table into docs/learning.md, and JSON and picture beside it.

    Raises:
        ValueError: the page has no place for the table, or several.
    """
    page = ROOT / "docs" / PAGE
    filled, count = PLACE.subn(lambda match: match[1] + text(machine, points) + match[2], page.read_text())
    if count != 1:
        raise ValueError(f"{page.name} has {count} places `<!-- curves -->`, expected one")
    page.write_text(filled)
    write(machine, points, ROOT / "docs")
    (ROOT / "docs" / Path(PICTURE).name).rename(ROOT / "docs" / PICTURE)


def draw(machine: Machine, points: Sequence[Point], path: Path) -> None:
    """Draw a panel for each data set: the median, and a band from the lowest to the highest seed."""
    courses = _courses(points)
    picture = Figure(figsize=(PANEL_INCHES * len(courses), PANEL_INCHES), layout="constrained")
    panels = picture.subplots(1, len(courses), squeeze=False, sharey=True)[0]
    for axes, course in zip(panels, courses, strict=True):
        for way, colour in COLOURS.items():
            drawn = [point for point in points if (point.course, point.way) == (course, way)]
            counts = sorted({point.annotations for point in drawn})
            by_count = [_accuracies(points, course, way, count) for count in counts]
            medians = [statistics.median(accuracies) for accuracies in by_count]
            lowest, highest = (
                [min(accuracies) for accuracies in by_count],
                [max(accuracies) for accuracies in by_count],
            )
            axes.plot(counts, medians, color=colour, marker="o", label=way)
            axes.fill_between(counts, lowest, highest, color=colour, alpha=0.2)
        axes.set_title(course, fontsize=10)
        axes.set_xlabel("annotations")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("accuracy on tasks that nobody annotated")
    panels[0].set_ylim(0, 1.02)
    panels[-1].legend(loc="lower right", fontsize=8)
    picture.suptitle(machine.line, fontsize=6)
    picture.savefig(path, dpi=110)


def _courses(points: Sequence[Point]) -> list[str]:
    return list(dict.fromkeys(point.course for point in points))


def _accuracies(points: Sequence[Point], course: str, way: str, count: int) -> list[float]:
    return [point.accuracy for point in _points_at(points, course, way, count)]


def _accuracy(points: Sequence[Point], course: str, way: str, count: int) -> str:
    accuracies = _accuracies(points, course, way, count)
    if not accuracies:
        return ""
    return f"{statistics.median(accuracies):.2f} ({min(accuracies):.2f} to {max(accuracies):.2f})"


def _seconds(points: Sequence[Point], course: str, way: str, count: int) -> str:
    seconds = [point.seconds for point in _points_at(points, course, way, count)]
    return f"{statistics.median(seconds):.1f}" if seconds and count else ""


def _points_at(points: Sequence[Point], course: str, way: str, count: int) -> list[Point]:
    """The points of all seeds."""
    return [point for point in points if (point.course, point.way, point.annotations) == (course, way, count)]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
