"""scikit-learn's handwritten digits with two control tags. The labels do not describe the digits."""

import io

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from lorabel.demo import MODEL_FOLDER
from lorabel.labeling.regions import Region, choices, taxonomy
from tests.e2e.courses import Course, LabeledTask, data_url

NAMES = {0: "alpha", 1: "beta", 4: "gamma"}
PATHS = {0: ["red bin", "upper"], 1: ["blue bin", "upper"], 4: ["blue bin", "lower"]}
TASKS = 98


def _tasks() -> list[LabeledTask]:
    digits = load_digits()
    chosen = [i for i, digit in enumerate(digits.target) if digit in NAMES][:TASKS]
    return [({"image": data_url(_png(digits.images[i]), "image/png")}, _result(digits.target[i])) for i in chosen]


def _result(digit: int) -> list[Region]:
    return [choices("label", "image", [NAMES[digit]]), taxonomy("bin", "image", [PATHS[digit]])]


def _png(digit: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray((digit * 255 / 16).astype(np.uint8)).resize((64, 64)).save(file, "PNG")
    return file.getvalue()


COURSE = Course(
    label_config='<View><Image name="image" value="$image"/><Choices name="label" toName="image">'
    + "".join(f'<Choice value="{name}"/>' for name in NAMES.values())
    + '</Choices><Taxonomy name="bin" toName="image" leafsOnly="true">'
    '<Choice value="red bin"><Choice value="upper"/></Choice>'
    '<Choice value="blue bin"><Choice value="upper"/><Choice value="lower"/></Choice></Taxonomy></View>',
    make_tasks=_tasks,
    variables=lambda _: {"MODEL_DUAL_ENCODER": f"local-dir:{MODEL_FOLDER}"},
    primary={"label": "accuracy", "bin": "accuracy"},
)
