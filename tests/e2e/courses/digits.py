"""scikit-learn's handwritten digits, by names that say nothing of their shape."""

import io

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from lorabel.demo import MODEL_FOLDER
from lorabel.regions import choices
from tests.e2e.courses import Course, Known, data_url

NAMES = {0: "alpha", 1: "beta", 4: "gamma"}
TASKS = 98


def _tasks() -> list[Known]:
    digits = load_digits()
    chosen = [i for i, digit in enumerate(digits.target) if digit in NAMES][:TASKS]
    return [
        (
            {"image": data_url(_png(digits.images[i]), "image/png")},
            [choices("label", "image", [NAMES[digits.target[i]]])],
        )
        for i in chosen
    ]


def _png(digit: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray((digit * 255 / 16).astype(np.uint8)).resize((64, 64)).save(file, "PNG")
    return file.getvalue()


COURSE = Course(
    label_config='<View><Image name="image" value="$image"/><Choices name="label" toName="image">'
    + "".join(f'<Choice value="{name}"/>' for name in NAMES.values())
    + "</Choices></View>",
    tasks=_tasks(),
    variables=lambda _: {"MODEL_DUAL_ENCODER": f"local-dir:{MODEL_FOLDER}"},
    primary={"label": "accuracy"},
)
