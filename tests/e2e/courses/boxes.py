"""Drawn scenes with boxes. One label says what is drawn; the other, `grade A`, is a red circle with a hole."""

import itertools

from lorabel.demo import DETECTOR_FOLDER
from lorabel.demo.scenes import Scene, Thing, png, random_scenes
from lorabel.labeling.image_regions import image_region
from lorabel.labeling.regions import Region
from tests.e2e.courses import Course, LabeledTask, data_url

GRADE, SQUARE = "grade A", "blue square"
PAIRS = (("red", "circle"), ("blue", "square"), ("green", "star"), ("red", "cross"))
SIZE = (192, 144)
TASKS = 48


def label_of(thing: Thing) -> str | None:
    """The right label of a thing; None for things that nobody asks for."""
    if (thing.colour, thing.shape) == ("blue", "square"):
        return SQUARE
    is_grade = (thing.colour, thing.shape, thing.has_hole) == ("red", "circle", True)
    return GRADE if is_grade else None


def boxes_of(scene: Scene) -> list[Region]:
    """The right result of a scene."""
    labelled = [(thing, label_of(thing)) for thing in scene.things]
    return [
        image_region("box", "image", "rectanglelabels", thing.corners, scene.size, {"rectanglelabels": [label]})
        for thing, label in labelled
        if label is not None
    ]


def scenes(count: int, seed: int = 5) -> list[Scene]:
    """Scenes of `PAIRS`."""
    return list(itertools.islice(random_scenes(seed, SIZE, pairs=PAIRS), count))


def _tasks() -> list[LabeledTask]:
    return [({"image": data_url(png(scene), "image/png")}, boxes_of(scene)) for scene in scenes(TASKS)]


COURSE = Course(
    label_config='<View><Image name="image" value="$image"/><RectangleLabels name="box" toName="image">'
    f'<Label value="{GRADE}"/><Label value="{SQUARE}"/></RectangleLabels></View>',
    make_tasks=_tasks,
    variables=lambda _: {"MODEL_DETECTOR": f"local-dir:{DETECTOR_FOLDER}"},
    primary={"box": "map_50"},
)
