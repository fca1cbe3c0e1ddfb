"""Drawn pictures: one coloured shape on a plain ground.

The demo model was trained on such pictures, and the demo project shows them to the annotator.
A picture is described by four words and a seed, for example `Picture("red", "star", "striped", "small", seed=7)`.
Labels can mean the words. The seed decides everything that labels should not depend on (position, exact size,
rotation, exact shade, ground, noise).

Some pairs of colour and shape are never trained on (`HELD_OUT_PAIRS`). They show whether the model has learned the
two words separately, or the pairs by heart.
"""

import colorsys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw

Points = NDArray[np.float64]
"""Corners of a closed outline, (n, 2), x to the right and y down, within the unit circle around (0, 0)."""


class Shade(NamedTuple):
    """A colour word as a region of HSV: hue in degrees, saturation and value in 0..1, each with a half-width."""

    hue: float
    saturation: float
    value: float
    hue_spread: float = 5.0
    saturation_spread: float = 0.06
    value_spread: float = 0.05


COLOURS = MappingProxyType(
    {
        "red": Shade(357, 0.88, 0.84),
        "orange": Shade(27, 0.93, 0.97, hue_spread=4),
        "yellow": Shade(53, 0.88, 0.96, hue_spread=4),
        "green": Shade(132, 0.72, 0.58, hue_spread=14),
        "blue": Shade(220, 0.82, 0.82, hue_spread=9),
        "purple": Shade(277, 0.68, 0.58, hue_spread=8),
        "pink": Shade(335, 0.42, 0.98),
        "brown": Shade(23, 0.68, 0.42),
        "black": Shade(0, 0.02, 0.07, saturation_spread=0.02),
        "white": Shade(0, 0.01, 0.97, saturation_spread=0.01, value_spread=0.03),
    }
)


def _points(x: ArrayLike, y: ArrayLike) -> Points:
    points: Points = np.stack([np.asarray(x), np.asarray(y)], axis=1)
    return points


def _polygon(corners: int) -> Points:
    angles = np.arange(corners) * 2 * np.pi / corners - np.pi / 2
    return _points(np.cos(angles), np.sin(angles))


def _square() -> Points:
    half = 0.7
    return np.array([[-half, -half], [half, -half], [half, half], [-half, half]])


def _star() -> Points:
    x, y = _polygon(10).T * np.tile([1.0, 0.42], 5)
    return _points(x, y)


def _heart() -> Points:
    t = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return _points(x / 17, (-y - 2) / 17)


def _cross() -> Points:
    arm, half = 0.95, 0.31
    quarter = np.array([[-half, -arm], [half, -arm], [half, -half]])
    turn = np.array([[0, 1], [-1, 0]])
    return np.concatenate([quarter @ np.linalg.matrix_power(turn, k) for k in range(4)])


def _moon() -> Points:
    tip, centre_x, shift_x = np.radians(52), 0.42, 0.2
    outer = np.linspace(tip, 2 * np.pi - tip, 60)
    radius = np.hypot(np.cos(tip) - centre_x, np.sin(tip))
    inner_tip = np.arctan2(np.sin(tip), np.cos(tip) - centre_x)
    inner = np.linspace(2 * np.pi - inner_tip, inner_tip, 60)
    x = np.concatenate([np.cos(outer), centre_x + radius * np.cos(inner)]) + shift_x
    return _points(x, np.concatenate([np.sin(outer), radius * np.sin(inner)]))


def _arrow() -> Points:
    half = [[0.0, -1.0], [0.8, -0.1], [0.3, -0.1], [0.3, 0.95]]
    return np.array(half + [[-x, y] for x, y in half[:0:-1]])


def _diamond() -> Points:
    return np.array([[0.0, -1.0], [0.58, 0.0], [0.0, 1.0], [-0.58, 0.0]])


def _flower() -> Points:
    t = np.linspace(0, 2 * np.pi, 120, endpoint=False)
    radius = 0.52 + 0.48 * np.abs(np.cos(2.5 * t))
    return _points(radius * np.sin(t), -radius * np.cos(t))


SHAPES: MappingProxyType[str, Callable[[], Points]] = MappingProxyType(
    {
        "circle": lambda: 0.9 * _polygon(64),
        "square": _square,
        "triangle": lambda: _polygon(3) + [0, 0.2],
        "star": _star,
        "heart": _heart,
        "cross": _cross,
        "moon": _moon,
        "arrow": _arrow,
        "diamond": _diamond,
        "flower": _flower,
    }
)
FILLS = ("solid", "striped", "outlined")
SIZES = MappingProxyType({"small": (0.18, 0.22), "large": (0.33, 0.40)})
"""Lowest and highest radius, as a share of the picture's side."""

HELD_OUT_PAIRS = frozenset(
    (colour, shape)
    for colour_index, colour in enumerate(COLOURS)
    for shape_index, shape in enumerate(SHAPES)
    if (shape_index - colour_index) % len(SHAPES) in (2, 5)
)
"""Pairs of colour and shape that are not trained on: two shapes for each colour, two colours for each shape."""

LARGEST_TILT_DEGREES = 20.0
SUPERSAMPLING = 4


@dataclass(frozen=True, slots=True)
class Picture:
    """A description of a picture, from which it can be drawn.

    Raises:
        ValueError: a word is not in `COLOURS`, `SHAPES`, `FILLS` or `SIZES`.
    """

    colour: str
    shape: str
    fill: str = "solid"
    size: str = "large"
    seed: int = 0

    def __post_init__(self) -> None:
        allowed_words = {"colour": COLOURS, "shape": SHAPES, "fill": FILLS, "size": SIZES}
        for name, words in allowed_words.items():
            if getattr(self, name) not in words:
                raise ValueError(f"{name} is {getattr(self, name)!r}; expected one of {', '.join(words)}")

    @property
    def pair(self) -> tuple[str, str]:
        """Colour and shape."""
        return self.colour, self.shape

    def draw(self, side_px: int = 64) -> Image.Image:
        """Draw the picture: RGB, `side_px` square. The same description always gives the same pixels."""
        rng = np.random.default_rng(self.seed)
        outline = _place(SHAPES[self.shape](), SIZES[self.size], rng)
        coverage = _coverage(outline, self.fill, rng, side_px)[..., None]
        colour = _shade(COLOURS[self.colour], rng)
        ground = _ground(colour, rng, side_px)
        pixels = ground * (1 - coverage) + colour * coverage
        pixels += rng.normal(0, rng.uniform(0, 0.03), pixels.shape)
        return Image.fromarray((pixels.clip(0, 1) * 255).round().astype(np.uint8), "RGB")


def random_pictures(seed: int, *, held_out: bool | None = None) -> Iterator[Picture]:
    """Endless random pictures, in an order that depends on `seed` only.

    Args:
        seed: below 1000. Pictures of two seeds never have the same `Picture.seed`.
        held_out: True for pairs in `HELD_OUT_PAIRS` only, False for the other pairs only, None for all pairs.
    """
    rng = np.random.default_rng(seed)
    all_pairs = [(colour, shape) for colour in COLOURS for shape in SHAPES]
    pairs = [pair for pair in all_pairs if held_out is None or (pair in HELD_OUT_PAIRS) is held_out]
    index = 0
    while True:
        colour, shape = pairs[rng.integers(len(pairs))]
        fill, size = FILLS[rng.integers(len(FILLS))], tuple(SIZES)[rng.integers(len(SIZES))]
        yield Picture(colour, shape, fill, size, seed=seed + 1000 * index)
        index += 1


def _place(outline: Points, radius_range: tuple[float, float], rng: np.random.Generator) -> Points:
    """Turn, scale and move an outline.

    Returns:
        (n, 2), x and y from the upper left corner, as shares of the picture's side (0..1).
    """
    radius = rng.uniform(*radius_range)
    tilt = np.radians(rng.uniform(-LARGEST_TILT_DEGREES, LARGEST_TILT_DEGREES))
    turn = np.array([[np.cos(tilt), np.sin(tilt)], [-np.sin(tilt), np.cos(tilt)]])
    margin = radius + 0.02
    centre = rng.uniform(margin, 1 - margin, size=2)
    placed: Points = radius * outline @ turn + centre
    return placed


def _coverage(outline: Points, fill: str, rng: np.random.Generator, side_px: int) -> NDArray[np.float64]:
    """The share of each pixel that the object covers, (side, side) in 0..1."""
    fine = side_px * SUPERSAMPLING
    corners = [(float(x), float(y)) for x, y in outline * fine]
    angle, phase = rng.uniform(0, np.pi), rng.uniform()
    area, edge = Image.new("L", (fine, fine)), Image.new("L", (fine, fine))
    ImageDraw.Draw(area).polygon(corners, fill=255)
    ImageDraw.Draw(edge).line(corners + corners[:2], fill=255, width=round(0.032 * fine), joint="curve")
    covered = np.asarray(edge) > 0
    if fill == "solid":
        covered = covered | (np.asarray(area) > 0)
    elif fill == "striped":
        y, x = np.mgrid[:fine, :fine] / fine
        across = (x * np.cos(angle) + y * np.sin(angle)) / 0.085 + phase
        covered = covered | ((np.asarray(area) > 0) & (across % 1 < 0.5))
    share: NDArray[np.float64] = covered.reshape(side_px, SUPERSAMPLING, side_px, SUPERSAMPLING).mean(axis=(1, 3))
    return share


def _shade(shade: Shade, rng: np.random.Generator) -> NDArray[np.float64]:
    """A random RGB colour of a colour word, (3,) in 0..1."""
    hue = shade.hue + shade.hue_spread * rng.uniform(-1, 1)
    saturation = np.clip(shade.saturation + shade.saturation_spread * rng.uniform(-1, 1), 0, 1)
    value = np.clip(shade.value + shade.value_spread * rng.uniform(-1, 1), 0, 1)
    return np.array(colorsys.hsv_to_rgb(hue % 360 / 360, saturation, value))


def _ground(colour: NDArray[np.float64], rng: np.random.Generator, side_px: int) -> NDArray[np.float64]:
    """A muted gradient, (side, side, 3) in 0..1, whose colours are far enough from `colour`."""
    while True:
        hue, saturation, value = rng.uniform(), rng.uniform(0, 0.18), rng.uniform(0.25, 0.9)
        drift = rng.uniform(-0.1, 0.1)
        ends = np.array([colorsys.hsv_to_rgb(hue, saturation, value + sign * drift) for sign in (-1, 1)])
        if np.linalg.norm(ends - colour, axis=1).min() > 0.42:
            break
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[:side_px, :side_px] / side_px - 0.5
    along = (0.5 + 0.7 * (x * np.cos(angle) + y * np.sin(angle))).clip(0, 1)[..., None]
    ground: NDArray[np.float64] = ends[0] * (1 - along) + ends[1] * along
    return ground
