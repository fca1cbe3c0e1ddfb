"""Which of two drawn shapes is larger? Nothing says so: annotators show it."""

import io
import random

from lorabel.demo import MODEL_FOLDER
from lorabel.demo.pictures import COLOURS, SHAPES, SIZES, Picture
from lorabel.labeling.regions import pairwise
from tests.e2e.courses import Course, Known, data_url

TASKS = 88


def _tasks() -> list[Known]:
    dice = random.Random(11)
    found = []
    for number in range(TASKS):
        sizes = dice.sample(list(SIZES), 2)
        one, two = (_picture(size, 2 * number + side, dice) for side, size in enumerate(sizes))
        side = "left" if sizes[0] == "large" else "right"
        found.append(({"one": one, "two": two}, [pairwise("larger", "one", side)]))
    return found


def _picture(size: str, seed: int, dice: random.Random) -> str:
    file = io.BytesIO()
    Picture(dice.choice(list(COLOURS)), dice.choice(list(SHAPES)), size=size, seed=seed).draw().save(file, "PNG")
    return data_url(file.getvalue(), "image/png")


COURSE = Course(
    label_config='<View><Image name="one" value="$one"/><Image name="two" value="$two"/>'
    '<Pairwise name="larger" toName="one,two"/></View>',
    tasks=_tasks(),
    variables=lambda _: {"MODEL_DUAL_ENCODER": f"local-dir:{MODEL_FOLDER}"},
    primary={"larger": "pair_accuracy"},
    is_silent_before=True,
)
