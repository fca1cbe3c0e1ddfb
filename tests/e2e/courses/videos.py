"""Videos of moving shapes, labeled by colour. The labels do not describe the colours."""

import random

import numpy as np
from numpy.typing import NDArray

from lorabel.demo import MODEL_FOLDER
from lorabel.demo.pictures import SHAPES, Picture
from lorabel.labeling.regions import choices
from tests.e2e.courses import Course, LabeledTask, data_url
from tests.video_files import encoded

NAMES = {"red": "epsilon", "green": "zeta", "blue": "delta"}
TASKS = 74
FRAMES = 12


def _tasks() -> list[LabeledTask]:
    rng = random.Random(5)
    chosen = [(list(NAMES)[i % len(NAMES)], rng.choice(list(SHAPES)), seed) for i, seed in enumerate(range(TASKS))]
    return [
        (
            {"video": data_url(encoded(_moving(colour, shape, seed)), "video/mp4")},
            [choices("label", "video", [NAMES[colour]])],
        )
        for colour, shape, seed in chosen
    ]


def _moving(colour: str, shape: str, seed: int) -> list[NDArray[np.uint8]]:
    """Frames in which the shape moves to the right and comes in again from the left."""
    picture = np.asarray(Picture(colour, shape, seed=seed).draw())
    return [np.roll(picture, 64 * i // FRAMES, axis=1) for i in range(FRAMES)]


COURSE = Course(
    label_config='<View><Video name="video" value="$video"/><Choices name="label" toName="video">'
    + "".join(f'<Choice value="{name}"/>' for name in NAMES.values())
    + "</Choices></View>",
    make_tasks=_tasks,
    variables=lambda _: {"MODEL_DUAL_ENCODER": f"local-dir:{MODEL_FOLDER}"},
    primary={"label": "accuracy"},
)
