"""Drawn scenes with boxes. One label says what is drawn; the other, `grade A`, is a red circle with a hole.

In the course, boxes are drawn with a margin around the thing, as the instructions of a project may demand. A head
chooses among the boxes that the base model draws, so only a training run can learn the margin. Without it, the
head is right about almost all things, and a run that cannot be better is refused.
"""

import itertools
from dataclasses import replace

from lorabel.demo import DETECTOR_FOLDER
from lorabel.demo.scenes import Scene, Thing, png, random_scenes
from lorabel.labeling.image_regions import image_region
from lorabel.labeling.regions import Region
from tests.e2e.courses import Course, LabeledTask, data_url

GRADE, SQUARE = "grade A", "blue square"
PAIRS = (("red", "circle"), ("blue", "square"), ("green", "star"), ("red", "cross"))
SIZE = (192, 144)
TASKS = 48
MARGIN = 0.25
"""Between a thing and its box in the course, as a part of the thing's width and height. A box without it counts as
wrong: its IoU with the right one is 1 / (1 + 2 * MARGIN)**2 = 0.44."""


def label_of(thing: Thing) -> str | None:
    """The right label of a thing; None for things that nobody asks for."""
    if (thing.colour, thing.shape) == ("blue", "square"):
        return SQUARE
    is_grade = (thing.colour, thing.shape, thing.has_hole) == ("red", "circle", True)
    return GRADE if is_grade else None


def boxes_of(scene: Scene, margin: float = 0.0) -> list[Region]:
    """The right result of a scene.

    Args:
        margin: as for `widened`.
    """
    labelled = [(widened(thing, margin), label_of(thing)) for thing in scene.things]
    return [
        image_region("box", "image", "rectanglelabels", thing.corners, scene.size, {"rectanglelabels": [label]})
        for thing, label in labelled
        if label is not None
    ]


def widened(thing: Thing, margin: float) -> Thing:
    """A thing with a larger outline, within the picture.

    Args:
        margin: on each side, as a part of the thing's width and height.
    """
    left, top, right, bottom = thing.corners
    centre_x, centre_y, factor = (left + right) / 2, (top + bottom) / 2, 1 + 2 * margin
    outline = tuple(
        (
            min(1.0, max(0.0, centre_x + factor * (x - centre_x))),
            min(1.0, max(0.0, centre_y + factor * (y - centre_y))),
        )
        for x, y in thing.outline
    )
    return replace(thing, outline=outline)


def scenes(count: int, seed: int = 5) -> list[Scene]:
    """Scenes of `PAIRS`."""
    return list(itertools.islice(random_scenes(seed, SIZE, pairs=PAIRS), count))


def _tasks() -> list[LabeledTask]:
    return [({"image": data_url(png(scene), "image/png")}, boxes_of(scene, MARGIN)) for scene in scenes(TASKS)]


COURSE = Course(
    label_config='<View><Image name="image" value="$image"/><RectangleLabels name="box" toName="image">'
    f'<Label value="{GRADE}"/><Label value="{SQUARE}"/></RectangleLabels></View>',
    make_tasks=_tasks,
    variables=lambda _: {"MODEL_DETECTOR": f"local-dir:{DETECTOR_FOLDER}"},
    primary={"box": "map_50"},
)
