"""Stars for how large a drawn shape is, whatever it is and whatever its colour."""

import io
import random

from lorabel.demo import MODEL_FOLDER
from lorabel.demo.pictures import COLOURS, SHAPES, Picture
from lorabel.labeling.regions import rating
from tests.e2e.courses import Course, Known, data_url

STARS = {("small", "outlined"): 1, ("small", "solid"): 2, ("large", "outlined"): 4, ("large", "solid"): 5}
TASKS = 98


def _tasks() -> list[Known]:
    dice = random.Random(5)
    found = []
    for seed in range(TASKS):
        size, fill = dice.choice(list(STARS))
        picture = Picture(dice.choice(list(COLOURS)), dice.choice(list(SHAPES)), fill, size, seed)
        file = io.BytesIO()
        picture.draw().save(file, "PNG")
        data = {"image": data_url(file.getvalue(), "image/png")}
        found.append((data, [rating("stars", "image", STARS[size, fill])]))
    return found


COURSE = Course(
    label_config='<View><Image name="image" value="$image"/><Rating name="stars" toName="image"/></View>',
    tasks=_tasks(),
    variables=lambda _: {"MODEL_DUAL_ENCODER": f"local-dir:{MODEL_FOLDER}"},
    primary={"stars": "spearman"},
    is_silent_before=True,
)
