"""Which of two drawn shapes is larger. The label config does not say what decides; the annotations show it."""

import io
import random

from lorabel.demo import MODEL_FOLDER
from lorabel.demo.pictures import COLOURS, SHAPES, SIZES, Picture
from lorabel.labeling.regions import pairwise
from tests.e2e.courses import Course, LabeledTask, data_url

TASKS = 88


def _tasks() -> list[LabeledTask]:
    dice = random.Random(11)
    tasks = []
    for number in range(TASKS):
        sizes = dice.sample(list(SIZES), 2)
        first, second = (_picture(size, 2 * number + side, dice) for side, size in enumerate(sizes))
        side = "left" if sizes[0] == "large" else "right"
        tasks.append(({"one": first, "two": second}, [pairwise("larger", "one", side)]))
    return tasks


def _picture(size: str, seed: int, dice: random.Random) -> str:
    file = io.BytesIO()
    Picture(dice.choice(list(COLOURS)), dice.choice(list(SHAPES)), size=size, seed=seed).draw().save(file, "PNG")
    return data_url(file.getvalue(), "image/png")


COURSE = Course(
    label_config='<View><Image name="one" value="$one"/><Image name="two" value="$two"/>'
    '<Pairwise name="larger" toName="one,two"/></View>',
    make_tasks=_tasks,
    variables=lambda _: {"MODEL_DUAL_ENCODER": f"local-dir:{MODEL_FOLDER}"},
    primary={"larger": "pair_accuracy"},
    is_silent_before=True,
)
