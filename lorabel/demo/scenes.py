"""Drawn scenes: one to six coloured shapes on a plain ground, with the box around each.

The demo's detector was trained on such scenes. Some pairs of colour and shape are never trained on
(`UNSEEN_PAIRS`): they show whether a detector has learned the two words separately.
"""

import colorsys
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from lorabel.demo.pictures import COLOURS, SHAPES, Shade

Corners = tuple[float, float, float, float]
Ground = tuple[NDArray[np.float64], NDArray[np.float64]]
"""The RGB colours at the left and the right edge, 0 to 1."""

SCENE_COLOURS: MappingProxyType[str, Shade] = MappingProxyType(
    {name: COLOURS[name] for name in ("red", "yellow", "green", "blue", "purple", "black")}
)
SCENE_SHAPES = ("circle", "square", "triangle", "star", "cross")
SHAPES_WITH_HOLES = ("circle", "square", "triangle")
ALL_PAIRS = tuple((colour, shape) for colour in SCENE_COLOURS for shape in SCENE_SHAPES)
UNSEEN_PAIRS = frozenset(
    (colour, SCENE_SHAPES[(index * 3 + 1) % len(SCENE_SHAPES)]) for index, colour in enumerate(SCENE_COLOURS)
)
"""Pairs of colour and shape that are not trained on: one shape for each colour."""
MOST_THINGS = 6
RADII = (0.1, 0.22)
"""Lowest and highest radius of a thing, as a share of the picture's shorter side."""
HOLE = 0.3
"""Radius of a hole, as a share of the thing's radius."""
SUPERSAMPLING = 2
FULL = 255


@dataclass(frozen=True, slots=True)
class Thing:
    """A shape in a scene.

    Attributes:
        outline: its corners, fractions of the picture's width and height.
        hole: centre and radii of the hole, fractions too; None without a hole.
        shade: RGB, 0 to 255.
    """

    colour: str
    shape: str
    outline: tuple[tuple[float, float], ...]
    hole: Corners | None
    shade: tuple[int, int, int]

    @property
    def corners(self) -> Corners:
        """(left, top, right, bottom) of the box around it, fractions of the picture."""
        x, y = zip(*self.outline, strict=True)
        return min(x), min(y), max(x), max(y)

    @property
    def has_hole(self) -> bool:
        """Whether the ground shows through its middle."""
        return self.hole is not None


@dataclass(frozen=True, slots=True)
class Scene:
    """A picture with several things.

    Attributes:
        size: width and height in pixels.
        ground: the two RGB colours between which the ground changes from left to right, 0 to 255.
    """

    things: tuple[Thing, ...]
    size: tuple[int, int]
    ground: tuple[tuple[int, int, int], tuple[int, int, int]]

    def draw(self) -> Image.Image:
        """Draw the scene as RGB."""
        width, height = (side * SUPERSAMPLING for side in self.size)
        share = np.linspace(0, 1, width)[None, :, None]
        rows = np.array(self.ground[0]) * (1 - share) + np.array(self.ground[1]) * share
        ground = Image.fromarray(np.repeat(rows, height, axis=0).round().astype(np.uint8))
        image = ground.copy()
        for thing in self.things:
            image.paste(thing.shade, mask=_fine_mask(thing, image.size))
        return image.reduce(SUPERSAMPLING)

    def mask(self, thing: Thing) -> NDArray[np.bool_]:
        """(height, width): the pixels of a thing of the scene, without its hole. Things do not overlap."""
        width, height = self.size
        fine = _fine_mask(thing, (width * SUPERSAMPLING, height * SUPERSAMPLING))
        mask: NDArray[np.bool_] = np.asarray(fine.reduce(SUPERSAMPLING)) >= FULL / 2
        return mask


def _fine_mask(thing: Thing, size: tuple[int, int]) -> Image.Image:
    """The pixels of a thing in a picture of a size in pixels: FULL inside, else 0."""
    width, height = size
    mask = Image.new("L", size)
    pen = ImageDraw.Draw(mask)
    pen.polygon([(x * width, y * height) for x, y in thing.outline], fill=FULL)
    if thing.hole is not None:
        x, y, radius_x, radius_y = thing.hole
        box = ((x - radius_x) * width, (y - radius_y) * height, (x + radius_x) * width, (y + radius_y) * height)
        pen.ellipse(box, fill=0)
    return mask


def png(scene: Scene) -> bytes:
    """The scene as a file."""
    file = io.BytesIO()
    scene.draw().save(file, "PNG")
    return file.getvalue()


def random_scenes(
    seed: int,
    size: tuple[int, int] | None = None,
    is_unseen: bool | None = False,
    pairs: Sequence[tuple[str, str]] = ALL_PAIRS,
) -> Iterator[Scene]:
    """Endless scenes; the same for the same arguments.

    Args:
        size: width and height in pixels; None: 96 on the longer side, half of them square.
        is_unseen: True for things of `UNSEEN_PAIRS` only, False for the other pairs only, None for all pairs.
        pairs: colours and shapes to choose from.
    """
    rng = np.random.default_rng(seed)
    chosen = [pair for pair in pairs if is_unseen is None or (pair in UNSEEN_PAIRS) is is_unseen]
    while True:
        yield _random_scene(chosen, size or _random_size(rng), rng)


def _random_size(rng: np.random.Generator) -> tuple[int, int]:
    if rng.random() < 0.5:
        return 96, 96
    shorter = int(rng.integers(60, 96))
    return (96, shorter) if rng.random() < 0.6 else (shorter, 96)


def _random_scene(pairs: Sequence[tuple[str, str]], size: tuple[int, int], rng: np.random.Generator) -> Scene:
    ground = random_ground(rng)
    things: list[Thing] = []
    for _ in range(int(rng.integers(1, MOST_THINGS + 1))):
        thing = place(pairs, size, ground, things, rng)
        things += [] if thing is None else [thing]
    return scene_of(things, size, ground)


def random_ground(rng: np.random.Generator) -> Ground:
    """A pale or dark ground of any hue, which changes a little from left to right."""
    hue, saturation, value = rng.uniform(), rng.uniform(0, 0.2), rng.uniform(0.3, 0.8)
    drift = rng.uniform(-0.08, 0.08)
    left, right = (np.array(colorsys.hsv_to_rgb(hue, saturation, value + sign * drift)) for sign in (-1, 1))
    return left, right


def scene_of(things: Sequence[Thing], size: tuple[int, int], ground: Ground) -> Scene:
    """The scene of things on a ground."""
    return Scene(tuple(things), size, (_rgb(ground[0]), _rgb(ground[1])))


def place(
    pairs: Sequence[tuple[str, str]],
    size: tuple[int, int],
    ground: Ground,
    others: Sequence[Thing],
    rng: np.random.Generator,
) -> Thing | None:
    """A thing that stands apart from the others; None if there was no room in ten tries.

    Args:
        pairs: colours and shapes to choose from.
        size: of the picture, in pixels.
    """
    for _ in range(10):
        colour, shape = pairs[int(rng.integers(len(pairs)))]
        shade = _shade(SCENE_COLOURS[colour], rng)
        if min(float(np.linalg.norm(end - shade)) for end in ground) < 0.3:
            continue
        radius = rng.uniform(*RADII) * min(size)
        tilt = np.radians(rng.uniform(-20, 20))
        turn = np.array([[np.cos(tilt), np.sin(tilt)], [-np.sin(tilt), np.cos(tilt)]])
        centre = np.array([rng.uniform(radius + 1, side - radius - 1) for side in size])
        points = (radius * SHAPES[shape]() @ turn + centre) / size
        hole = None
        if shape in SHAPES_WITH_HOLES and rng.random() < 0.4:
            x, y = centre / size
            hole = (float(x), float(y), HOLE * radius / size[0], HOLE * radius / size[1])
        outline = tuple((float(x), float(y)) for x, y in points)
        thing = Thing(colour, shape, outline, hole, _rgb(shade))
        if not any(_overlap(thing.corners, other.corners) for other in others):
            return thing
    return None


def _overlap(first: Corners, second: Corners) -> bool:
    return all(first[i] < second[i + 2] + 0.01 and second[i] < first[i + 2] + 0.01 for i in (0, 1))


def _shade(shade: Shade, rng: np.random.Generator) -> NDArray[np.float64]:
    hue = shade.hue + shade.hue_spread * rng.uniform(-1, 1)
    saturation = np.clip(shade.saturation + shade.saturation_spread * rng.uniform(-1, 1), 0, 1)
    value = np.clip(shade.value + shade.value_spread * rng.uniform(-1, 1), 0, 1)
    return np.array(colorsys.hsv_to_rgb(hue % 360 / 360, float(saturation), float(value)))


def _rgb(shade: NDArray[np.float64]) -> tuple[int, int, int]:
    red, green, blue = (round(255 * float(part)) for part in shade)
    return red, green, blue
