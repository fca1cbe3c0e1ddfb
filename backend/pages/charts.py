"""The geometry of charts, which `charts.html` draws as SVG: no script, readable without colours.

Coordinates are in units of the SVG's view box, the origin at the top left.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

WIDTH, HEIGHT = 460.0, 210.0
LEFT, RIGHT, TOP, BOTTOM = 46.0, 12.0, 12.0, 34.0
SPARK_WIDTH, SPARK_HEIGHT = 96.0, 24.0
MOST_X_TICKS = 6
TICK_WIDTH = 32.0
Y_STEPS = 4
SMALLEST_SHARES = 0.1
# Of the texts in a chart, about; and at how many places a line is looked at.
LETTER_WIDTH, LINE_HEIGHT, SAMPLES = 6.4, 17.0, 24
# The ticks of axes that go from 0 to 1.
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Point:
    """A value of a line.

    Attributes:
        low, high: of its interval; None if that is not known.
        text: what it says, shown when the point is pointed at.
        is_hollow: whether it is drawn as a ring, as of what was rejected. The line leaves it out.
    """

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    text: str = ""
    is_hollow: bool = False


class Tick(NamedTuple):
    """A mark of an axis at a coordinate."""

    at: float
    text: str


class Fitted(NamedTuple):
    """A place of a fitted curve, and the ends of its band there."""

    x: float
    low: float
    y: float
    high: float


class Place(NamedTuple):
    """Where a text stands: its end if `anchor` is `end`, else its beginning."""

    x: float
    y: float
    anchor: str


class Dot(NamedTuple):
    """A drawn point; `top` and `bottom` are the ends of its interval."""

    x: float
    y: float
    top: float | None
    bottom: float | None
    text: str
    is_hollow: bool


@dataclass(frozen=True)
class LineChart:
    """A drawn line with its axes.

    Attributes:
        path: the `d` of the line.
        base: the level that the line is compared with, and its text; None if there is none.
        base_place: where that text stands.
        curve, band: the `d` of a fitted curve and of its band; empty if there is none.
    """

    title: str
    x_label: str
    path: str
    dots: Sequence[Dot]
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    base: Tick | None
    base_place: Place | None = None
    curve: str = ""
    band: str = ""
    width: float = WIDTH
    height: float = HEIGHT
    left: float = LEFT
    right: float = WIDTH - RIGHT
    bottom: float = HEIGHT - BOTTOM


def line_chart(
    title: str,
    x_label: str,
    points: Sequence[Point],
    base: tuple[float, str] | None = None,
    *,
    is_share: bool = True,
    fitted: Sequence[Fitted] = (),
    is_x_share: bool = False,
) -> LineChart | None:
    """Place points on axes; None if there are none.

    Args:
        base: a level to compare with, and its text.
        is_share: whether the values are shares, which are written in percent and end at 0 and 1.
        fitted: a curve that is drawn beside the points, from left to right. Points have no line then.
        is_x_share: whether both axes are shares, and go from 0 to 1.
    """
    if not points:
        return None
    low, high, step = (0.0, 1.0, SHARES[1]) if is_x_share else _range(points, fitted, base, is_share)
    ends = [place.x for place in (*fitted[:1], *fitted[-1:])]
    x_values = SHARES if is_x_share else sorted({*(point.x for point in points), *ends})
    first, last = x_values[0], x_values[-1]
    across = (last - first) or 1.0

    def x_of(x: float) -> float:
        middle = (LEFT + WIDTH - RIGHT) / 2
        return middle if first == last else LEFT + 8 + (WIDTH - LEFT - RIGHT - 16) * (x - first) / across

    def y_of(y: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (high - y) / (high - low)

    dots = [
        Dot(
            x_of(point.x),
            y_of(point.y),
            None if point.high is None else y_of(point.high),
            None if point.low is None else y_of(point.low),
            point.text,
            point.is_hollow,
        )
        for point in points
    ]
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    y_ticks = [
        Tick(y_of(y), f"{100 * y:.0f} %" if is_share else f"{y:.{digits}f}") for y in _y_ticks(low, high, step)
    ]
    level = None if base is None else Tick(y_of(base[0]), base[1])
    return LineChart(
        title,
        x_label,
        "" if fitted else _path([(dot.x, dot.y) for dot in dots if not dot.is_hollow]),
        dots,
        _apart([Tick(x_of(x), f"{100 * x:.0f} %" if is_x_share else f"{x:,.0f}") for x in _x_ticks(x_values)]),
        y_ticks,
        level,
        None if level is None else _base_place(level, dots),
        _path([(x_of(place.x), y_of(place.y)) for place in fitted]),
        _band([(x_of(place.x), y_of(place.low), y_of(place.high)) for place in fitted]),
    )


def _base_place(base: Tick, dots: Sequence[Dot]) -> Place:
    """Where the level's text lies over as little of the line and the intervals as possible."""
    width = LETTER_WIDTH * len(base.text)
    drawn = _drawn(dots)
    best, fewest = Place(WIDTH - RIGHT, base.at - 5, "end"), float("inf")
    for is_above in (True, False):
        top = base.at - LINE_HEIGHT if is_above else base.at
        if top < 0 or top + LINE_HEIGHT > HEIGHT - BOTTOM:
            continue
        for anchor, left in (("end", WIDTH - RIGHT - width), ("start", LEFT)):
            covered = sum(left <= x <= left + width and top <= y <= top + LINE_HEIGHT for x, y in drawn)
            if covered < fewest:
                x = left + width if anchor == "end" else left
                best, fewest = Place(x, base.at - 5 if is_above else base.at + 14, anchor), covered
    return best


def _drawn(dots: Sequence[Dot]) -> list[tuple[float, float]]:
    """Places of the line and of the intervals, close enough together that no text fits between."""
    places = [(dot.x, dot.y) for dot in dots]
    on_line = [dot for dot in dots if not dot.is_hollow]
    for first, last in pairwise(on_line):
        places += [
            (first.x + (last.x - first.x) * part / SAMPLES, first.y + (last.y - first.y) * part / SAMPLES)
            for part in range(1, SAMPLES)
        ]
    for dot in dots:
        if dot.top is not None and dot.bottom is not None:
            places += [(dot.x, dot.top + (dot.bottom - dot.top) * part / SAMPLES) for part in range(SAMPLES + 1)]
    return places


@dataclass(frozen=True)
class Spark:
    """A small line without axes. `last`: where its newest value is."""

    path: str
    last: tuple[float, float]
    text: str
    width: float = SPARK_WIDTH
    height: float = SPARK_HEIGHT


def spark(values: Sequence[float], text: str) -> Spark | None:
    """None if there are no values.

    Args:
        values: shares, the oldest first. Equal values are drawn in the middle.
        text: what the line says, for those who do not see it.
    """
    if not values:
        return None
    low, high = min(values), max(values)
    margin = 3.0
    step = (SPARK_WIDTH - 2 * margin) / max(1, len(values) - 1)

    def y_of(value: float) -> float:
        share = 0.5 if high == low else (high - value) / (high - low)
        return margin + (SPARK_HEIGHT - 2 * margin) * share

    places = [(margin + step * i, y_of(value)) for i, value in enumerate(values)]
    return Spark(_path(places), places[-1], text)


def _range(
    points: Sequence[Point], fitted: Sequence[Fitted], base: tuple[float, str] | None, is_share: bool
) -> tuple[float, float, float]:
    """The lowest and highest value of the y axis, and the distance of its ticks, on which both lie."""
    values = [value for point in points for value in (point.y, point.low, point.high) if value is not None]
    values += [value for place in fitted for value in (place.low, place.high)]
    values += [] if base is None else [base[0]]
    low, high = min(values), max(values)
    smallest = SMALLEST_SHARES if is_share else max(abs(low), abs(high), 1e-6) / 20
    if high - low < smallest:
        low, high = low - smallest / 2, high + smallest / 2
    step = _step(low, high)
    low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
    return (max(0.0, low), min(1.0, high), step) if is_share else (low, high, step)


def _step(low: float, high: float) -> float:
    """The distance of the ticks of the y axis: 1, 2 or 5 times a power of ten."""
    wanted = (high - low) / Y_STEPS
    power = 10.0 ** math.floor(math.log10(wanted))
    return power * next(factor for factor in (1, 2, 5, 10) if factor * power >= wanted * (1 - 1e-9))


def _y_ticks(low: float, high: float, step: float) -> list[float]:
    return [low + step * number for number in range(round((high - low) / step) + 1)]


def _x_ticks(values: Sequence[float]) -> list[float]:
    """Some of the values, at even distances, with the first and the last."""
    if len(values) <= MOST_X_TICKS:
        return list(values)
    step = (len(values) - 1) / (MOST_X_TICKS - 1)
    return [values[round(step * number)] for number in range(MOST_X_TICKS)]


def _apart(ticks: Sequence[Tick]) -> list[Tick]:
    """The ticks without those whose texts would lie over the next. The last stays."""
    kept: list[Tick] = []
    for tick in reversed(ticks):
        if not kept or kept[-1].at - tick.at >= TICK_WIDTH:
            kept.append(tick)
    return kept[::-1]


def _path(places: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{'L' if number else 'M'}{x:.1f} {y:.1f}" for number, (x, y) in enumerate(places))


def _band(places: Sequence[tuple[float, float, float]]) -> str:
    """The outline of a band whose lower and upper ends are given for each x."""
    outline = [*((x, high) for x, _, high in places), *((x, low) for x, low, _ in reversed(places))]
    return f"{_path(outline)} Z" if outline else ""
