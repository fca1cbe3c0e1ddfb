"""Drawn scenes with masks. One label says what is drawn; the other, `grade A`, is a red circle with a hole.

Masks are drawn with a margin around the thing, as the instructions of a project may demand. The demo's models
outline the things themselves almost without an error, and a run that cannot be better is refused.
"""

from collections.abc import Iterator
from itertools import islice

from lorabel.demo import DETECTOR_FOLDER, SEGMENTER_FOLDER
from lorabel.demo.scenes import Scene, png
from lorabel.labeling.bit_masks import encode, runs_of
from lorabel.labeling.image_regions import picture_region
from lorabel.labeling.regions import Region
from tests.e2e.courses import Course, LabeledTask, data_url
from tests.e2e.courses.boxes import GRADE, SQUARE, TASKS, label_of, scenes, widened

MOST_DRAWN = 1000
MARGIN = 0.1
"""See `widened`."""


def masks_of(scene: Scene) -> list[Region]:
    """The right result of a scene."""
    labelled = [(widened(thing, MARGIN), label_of(thing)) for thing in scene.things]
    return [
        picture_region(
            "mask",
            "image",
            "brushlabels",
            scene.size,
            {"format": "rle", "rle": encode(runs_of(scene.mask(thing))), "brushlabels": [label]},
        )
        for thing, label in labelled
        if label is not None
    ]


def _scenes() -> Iterator[Scene]:
    """In turn a scene with something of grade A, and any scene."""
    drawn = iter(scenes(MOST_DRAWN, seed=9))
    while True:
        yield next(scene for scene in drawn if GRADE in map(label_of, scene.things))
        yield next(drawn)


def _tasks() -> list[LabeledTask]:
    return [({"image": data_url(png(scene), "image/png")}, masks_of(scene)) for scene in islice(_scenes(), TASKS)]


COURSE = Course(
    label_config='<View><Image name="image" value="$image"/><BrushLabels name="mask" toName="image">'
    f'<Label value="{GRADE}"/><Label value="{SQUARE}"/></BrushLabels></View>',
    make_tasks=_tasks,
    variables=lambda _: {
        "MODEL_DETECTOR": f"local-dir:{DETECTOR_FOLDER}",
        "MODEL_SEGMENTER": f"local-dir:{SEGMENTER_FOLDER}",
    },
    primary={"mask": "map"},
)
