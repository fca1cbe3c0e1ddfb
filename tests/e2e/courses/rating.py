"""Stars for the size and the fill of a drawn shape, whatever its form and colour."""

import io
import random

from lorabel.demo import MODEL_FOLDER
from lorabel.demo.pictures import COLOURS, SHAPES, Picture
from lorabel.labeling.regions import rating
from tests.e2e.courses import Course, LabeledTask, data_url

STARS = {("small", "outlined"): 1, ("small", "solid"): 2, ("large", "outlined"): 4, ("large", "solid"): 5}
TASKS = 98


def _tasks() -> list[LabeledTask]:
    dice = random.Random(5)
    tasks = []
    for seed in range(TASKS):
        size, fill = dice.choice(list(STARS))
        picture = Picture(dice.choice(list(COLOURS)), dice.choice(list(SHAPES)), fill, size, seed)
        file = io.BytesIO()
        picture.draw().save(file, "PNG")
        data = {"image": data_url(file.getvalue(), "image/png")}
        tasks.append((data, [rating("stars", "image", STARS[size, fill])]))
    return tasks


COURSE = Course(
    label_config='<View><Image name="image" value="$image"/><Rating name="stars" toName="image"/></View>',
    make_tasks=_tasks,
    variables=lambda _: {"MODEL_DUAL_ENCODER": f"local-dir:{MODEL_FOLDER}"},
    primary={"stars": "spearman"},
    is_silent_before=True,
)
