"""A drawn shape with a note. The label depends on the colour and on the word in the note together."""

import io
import random

from lorabel.demo import MODEL_FOLDER
from lorabel.demo.pictures import SHAPES, Picture
from lorabel.labeling.regions import choices
from tests.e2e.courses import Course, LabeledTask, data_url

NAMES = {
    ("red", "circle"): "alpha",
    ("red", "star"): "beta",
    ("blue", "circle"): "gamma",
    ("blue", "star"): "delta",
}
NOTES = ("a {}", "one {}", "{}", "the {}")
TASKS = 98


def _tasks() -> list[LabeledTask]:
    dice = random.Random(3)
    tasks = []
    for seed in range(TASKS):
        colour, word = dice.choice(list(NAMES))
        file = io.BytesIO()
        Picture(colour, dice.choice(list(SHAPES)), seed=seed).draw().save(file, "PNG")
        data = {"image": data_url(file.getvalue(), "image/png"), "text": dice.choice(NOTES).format(word)}
        tasks.append((data, [choices("label", "image", [NAMES[colour, word]])]))
    return tasks


COURSE = Course(
    label_config='<View><Image name="image" value="$image"/><Text name="text" value="$text"/>'
    '<Choices name="label" toName="image,text">'
    + "".join(f'<Choice value="{name}"/>' for name in NAMES.values())
    + "</Choices></View>",
    make_tasks=_tasks,
    variables=lambda _: {"MODEL_DUAL_ENCODER": f"local-dir:{MODEL_FOLDER}"},
    primary={"label": "accuracy"},
)
