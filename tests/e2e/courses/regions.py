"""Drawn scenes with boxes, and a grade for each: B has a hole, A has none, whatever its shape and colour."""

import itertools

from lorabel.demo import DETECTOR_FOLDER, MODEL_FOLDER
from lorabel.demo.scenes import Scene, Thing, png, random_scenes
from lorabel.labeling.image_regions import image_region
from lorabel.labeling.regions import Region
from tests.e2e.courses import Course, LabeledTask, data_url

PAIRS = (("red", "circle"), ("blue", "square"), ("purple", "circle"))
NAMES = tuple(f"{colour} {shape}" for colour, shape in PAIRS)
WHOLE, HOLED = "grade A", "grade B"
SIZE = (192, 144)
TASKS = 44
LABEL_CONFIG = (
    '<View><Image name="image" value="$image"/><RectangleLabels name="box" toName="image">'
    + "".join(f'<Label value="{name}"/>' for name in NAMES)
    + '</RectangleLabels><Choices name="grade" toName="image" perRegion="true">'
    f'<Choice value="{WHOLE}"/><Choice value="{HOLED}"/></Choices></View>'
)


def grade_of(thing: Thing) -> str:
    """The right grade of a thing."""
    return HOLED if thing.has_hole else WHOLE


def result_of(scene: Scene) -> list[Region]:
    """The right result of a scene: a box around each thing, and its grade."""
    return [
        {"id": f"thing{number}", **image_region(name, "image", kind, thing.corners, scene.size, {kind: [value]})}
        for number, thing in enumerate(scene.things)
        for name, kind, value in (
            ("box", "rectanglelabels", f"{thing.colour} {thing.shape}"),
            ("grade", "choices", grade_of(thing)),
        )
    ]


def scenes(count: int, seed: int = 7) -> list[Scene]:
    """Scenes of `PAIRS`."""
    return list(itertools.islice(random_scenes(seed, SIZE, pairs=PAIRS), count))


def _tasks() -> list[LabeledTask]:
    return [({"image": data_url(png(scene), "image/png")}, result_of(scene)) for scene in scenes(TASKS)]


COURSE = Course(
    label_config=LABEL_CONFIG,
    make_tasks=_tasks,
    variables=lambda _: {
        "MODEL_DETECTOR": f"local-dir:{DETECTOR_FOLDER}",
        "MODEL_DUAL_ENCODER": f"local-dir:{MODEL_FOLDER}",
    },
    primary={"grade": "accuracy"},
)
