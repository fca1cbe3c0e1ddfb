"""Learning curves as tables, as JSON and as a picture."""

import json
import re
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from matplotlib.artist import Artist
from matplotlib.figure import Figure

from benchmarks.curve_lora import LORA, SCRATCH
from benchmarks.machine import ROOT, Machine

ZERO_SHOT, HEAD = "zero-shot", "head"
SCALED, CROSS_VALIDATED = "logistic regression, scaled", "logistic regression, cross-validated"
RIDGE_SCALED, RIDGE_CROSS_VALIDATED = "ridge regression, scaled", "ridge regression, cross-validated"
MEAN = "mean of the annotations"
FULL, PROTOTYPES = "full retraining", "prototypes"
NEAREST, ON_DISTANCE = "nearest region", "logistic regression on labels and distance"
COLOURS = {
    ZERO_SHOT: "#8a8a8a",
    HEAD: "#2a9d5c",
    SCALED: "#5b7fa6",
    CROSS_VALIDATED: "#a9c1dd",
    RIDGE_SCALED: "#5b7fa6",
    RIDGE_CROSS_VALIDATED: "#a9c1dd",
    MEAN: "#c9b458",
    LORA: "#c8442f",
    SCRATCH: "#e8a598",
    FULL: "#7d4fa0",
    PROTOTYPES: "#c9b458",
    NEAREST: "#b8b8b8",
    ON_DISTANCE: "#5b7fa6",
}
TRAINED = (LORA, SCRATCH)
COMPARISONS = (SCALED, CROSS_VALIDATED, RIDGE_SCALED, RIDGE_CROSS_VALIDATED, MEAN, NEAREST, ON_DISTANCE)
CHOICE, BOXES, SERIES, RELATIONS = "choice", "boxes", "segments of series", "relations"
# What `Point.accuracy` is for each kind of question; the figure that decides about promotion.
FIGURES_OF_KINDS = {
    CHOICE: "accuracy",
    "multiple choice": "share of tasks with all labels right",
    "taxonomy": "share of paths that are right",
    "rating": "closeness: 1 - error / longest possible error",
    "ranking": "share of pairs in the right order",
    "spans": "F1",
    "segments": "F1 at an overlap of a half, and the error of the boundaries",
    BOXES: "mAP@50",
    SERIES: "F1 of segments at an overlap of a half",
    RELATIONS: "F1 of relations between the true regions",
}
GOAL_MARGIN = 0.01
ROUNDING = 1e-9
PAGE, PICTURE, FIGURES = "learning.md", "pictures/learning-curves.png", "learning-curves.json"
PLACE = re.compile(r"(<!-- curves -->\n).*?(<!-- end of curves -->)", re.DOTALL)
PANEL_INCHES = 3.2
PANELS_IN_A_ROW = 5


@dataclass(frozen=True)
class Point:
    """What was measured after a number of annotations.

    Args:
        accuracy: on the test tasks. For other kinds than choices the figure of FIGURES_OF_KINDS.
        calibration_error: None if it was not measured, or if answers of the kind have no probability.
        seconds: of CPU time for a fit and the answers to the test tasks; of wall time for a training run.
        kind: of question, a key of FIGURES_OF_KINDS.
        boundary_error_ms: of segments, see `segment_metrics`; None for other kinds, and where no segment is right.
    """

    course: str
    way: str
    seed: int
    annotations: int
    accuracy: float
    calibration_error: float | None
    seconds: float
    kind: str = CHOICE
    boundary_error_ms: float | None = None


def text(machine: Machine, points: Sequence[Point]) -> str:
    """Markdown: for each data set and way the median accuracy over the seeds, with the quartiles."""
    seeds = sorted({len(_seeds(points, course)) for course in _courses(points) if _counts(points, course)})
    lines = [f"{machine.line}. {' or '.join(map(str, seeds))} seeds; median (lower to upper quartile)."]
    for course in _courses(points):
        counts = sorted({point.annotations for point in points if point.course == course})
        lines += ["", _title(points, course), "", _line(["annotations", *(f"{count}" for count in counts)])]
        lines.append(_line(["---"] * (len(counts) + 1)))
        for way in COLOURS:
            cells = [_accuracy(_points_at(points, course, way, count)) for count in counts]
            if any(cells):
                lines.append(_line([way, *cells]))
    for kind in FIGURES_OF_KINDS:
        of_kind = [point for point in points if point.kind == kind]
        if any(point.way == HEAD for point in of_kind):
            lines += ["", *_summary(kind, of_kind)]
    return "\n".join([*lines, "", *_missed(points), ""])


def missed_cells(points: Sequence[Point]) -> list[str]:
    """The data sets and numbers of annotations at which the head is less accurate than the goal."""
    cells = []
    for course in _courses(points):
        zero_shot = _points_at(points, course, ZERO_SHOT, 0)
        for count in _counts(points, course):
            head = _points_at(points, course, HEAD, count)
            bounds = [zero_shot, *(_points_at(points, course, way, count) for way in COMPARISONS)]
            medians = [_median(bound) for bound in bounds if bound]
            if head and medians and _median(head) < max(medians) - GOAL_MARGIN - ROUNDING:
                cells.append(f"{course} at {count} ({_median(head):.3f} instead of {max(medians):.3f})")
    return cells


def write(machine: Machine, points: Sequence[Point], folder: Path) -> None:
    """Write JSON and picture into the folder."""
    figures = {"machine": asdict(machine), "points": [_figures(point) for point in points]}
    (folder / Path(FIGURES).name).write_text(json.dumps(figures, indent=1) + "\n")
    draw(machine, points, folder / Path(PICTURE).name)


def _figures(point: Point) -> dict[str, object]:
    """The fields of a point. Only segments have boundaries."""
    return {
        name: value for name, value in asdict(point).items() if name != "boundary_error_ms" or value is not None
    }


def write_docs(machine: Machine, points: Sequence[Point]) -> None:
    """Write the tables into docs/learning.md, and JSON and picture beside it.

    What was measured earlier is kept where it was not measured now: other data sets, and training runs.

    Raises:
        ValueError: the page has no place for the tables, or several.
    """
    docs = ROOT / "docs"
    points = [*points, *_earlier(docs / FIGURES, points)]
    page = docs / PAGE
    filled, count = PLACE.subn(lambda match: match[1] + text(machine, points) + match[2], page.read_text())
    if count != 1:
        raise ValueError(f"{page.name} has {count} places `<!-- curves -->`, expected one")
    page.write_text(filled)
    write(machine, points, docs)
    (docs / Path(PICTURE).name).rename(docs / PICTURE)


def draw(machine: Machine, points: Sequence[Point], path: Path) -> None:
    """Draw a panel for each data set: the median, and a band from the lower to the upper quartile."""
    courses = _courses(points)
    columns = min(PANELS_IN_A_ROW, len(courses))
    rows = -(-len(courses) // columns)
    picture = Figure(figsize=(PANEL_INCHES * columns, PANEL_INCHES * rows), layout="constrained")
    panels = picture.subplots(rows, columns, squeeze=False, sharey=True)
    for axes, course in zip(panels.flat, courses, strict=False):
        for way, colour in COLOURS.items():
            counts = sorted({point.annotations for point in points if (point.course, point.way) == (course, way)})
            if way == ZERO_SHOT and counts:
                axes.axhline(_median(_points_at(points, course, way, 0)), color=colour, linestyle="--", label=way)
            elif counts:
                quartiles = np.array([_quartiles(_points_at(points, course, way, count)) for count in counts])
                axes.plot(counts, quartiles[:, 1], color=colour, marker="o", markersize=3, label=way)
                axes.fill_between(counts, quartiles[:, 0], quartiles[:, 2], color=colour, alpha=0.2)
        axes.set_title(course, fontsize=10)
        axes.set_xscale("symlog", linthresh=5)
        axes.set_xlabel("annotations", fontsize=8)
        axes.grid(alpha=0.3)
    for axes in panels.flat[len(courses) :]:
        axes.set_visible(False)
    panels[0][0].set_ylim(0, 1.02)
    picture.supylabel("accuracy, or the figure of the kind, on tasks that nobody annotated", fontsize=9)
    handles: dict[str, Artist] = {}
    for axes in panels.flat:
        lines, labels = axes.get_legend_handles_labels()
        handles |= dict(zip(labels, lines, strict=True))
    picture.legend(
        list(handles.values()), list(handles), loc="outside lower center", ncols=len(handles), fontsize=8
    )
    picture.suptitle(machine.line, fontsize=6)
    picture.savefig(path, dpi=110)


def _earlier(path: Path, points: Sequence[Point]) -> list[Point]:
    """Points in a JSON file that `points` has none like: of other data sets, and of training runs."""
    earlier = [Point(**figures) for figures in json.loads(path.read_text())["points"]]
    measured = {(point.course, point.way in TRAINED) for point in points}
    return [point for point in earlier if (point.course, point.way in TRAINED) not in measured]


def _title(points: Sequence[Point], course: str) -> str:
    kind = next(point.kind for point in points if point.course == course)
    return f"**{course}**" if kind == CHOICE else f"**{course}** ({kind}; {FIGURES_OF_KINDS[kind]})"


def _summary(kind: str, points: Sequence[Point]) -> list[str]:
    """Over the data sets of a kind: means of the median figures and calibration errors, and the seconds of a fit.

    Only the data sets that were measured with all numbers of annotations count.
    """
    counts = max((_counts(points, course) for course in _courses(points)), key=lambda counts: counts[-1:])
    courses = [course for course in _courses(points) if _counts(points, course) == counts]
    points = [point for point in points if point.course in courses]
    ways = [way for way in (HEAD, *COMPARISONS) if any(point.way == way for point in points)]
    lines = [f"**all data sets, {kind}** ({', '.join(courses)})", ""]
    lines += [_line(["annotations", *(f"{count}" for count in counts)]), _line(["---"] * (len(counts) + 1))]
    for way in ways:
        groups = [[_points_at(points, course, way, count) for course in courses] for count in counts]
        means = [statistics.mean(_median(group) for group in of_count if group) for of_count in groups]
        lines.append(_line([way, *(f"{mean:.3f}" for mean in means)]))
    for way in ways:
        errors = [
            [point.calibration_error for point in points if (point.way, point.annotations) == (way, count)]
            for count in counts
        ]
        known = [[error for error in of_count if error is not None] for of_count in errors]
        if all(known):
            cells = [f"{statistics.mean(of_count):.3f}" for of_count in known]
            lines.append(_line([f"{way}, calibration error", *cells]))
    for way in ways:
        of_way = [
            [point for point in points if (point.way, point.annotations) == (way, count)] for count in counts
        ]
        cells = [f"{1000 * statistics.median(point.seconds for point in group):.0f}" for group in of_way]
        lines.append(_line([f"{way}, ms of CPU", *cells]))
    return lines


def _missed(points: Sequence[Point]) -> list[str]:
    cells = sum(len(_counts(points, course)) for course in _courses(points))
    missed = missed_cells(points)
    if not missed:
        return [f"The head meets the goal in all {cells} cells."]
    return [f"The head misses the goal in {len(missed)} of {cells} cells: {', '.join(missed)}."]


def _courses(points: Sequence[Point]) -> list[str]:
    return list(dict.fromkeys(point.course for point in points))


def _counts(points: Sequence[Point], course: str) -> list[int]:
    """The numbers of annotations at which the head was measured on a data set."""
    return sorted({point.annotations for point in points if (point.course, point.way) == (course, HEAD)})


def _seeds(points: Sequence[Point], course: str) -> set[int]:
    return {point.seed for point in points if (point.course, point.way) == (course, HEAD)}


def _median(points: Sequence[Point]) -> float:
    return statistics.median(point.accuracy for point in points)


def _quartiles(points: Sequence[Point]) -> list[float]:
    """The lower quartile, the median and the upper quartile of the accuracies."""
    quartiles: list[float] = np.percentile([point.accuracy for point in points], (25, 50, 75)).tolist()
    return quartiles


def _accuracy(points: Sequence[Point]) -> str:
    if not points:
        return ""
    lower, median, upper = _quartiles(points)
    cell = f"{median:.2f}" if lower == upper else f"{median:.2f} ({lower:.2f} to {upper:.2f})"
    errors_ms = [point.boundary_error_ms for point in points if point.boundary_error_ms is not None]
    return f"{cell}, {statistics.median(errors_ms):.0f} ms" if errors_ms else cell


def _points_at(points: Sequence[Point], course: str, way: str, count: int) -> list[Point]:
    """The points of all seeds."""
    return [point for point in points if (point.course, point.way, point.annotations) == (course, way, count)]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
