"""What heads are fitted on: the features and the zero-shot logits of every task of a course, computed once."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.curve_courses import Course, LabeledTask
from lorabel.contracts import LabelsInput
from lorabel.families.encoders.encoder import Encoder
from lorabel.families.encoders.heads.labels import LabelHead
from lorabel.families.encoders.label_logits import label_logits
from lorabel.families.loading import family_for
from lorabel.problems.binding import BoundConfig, bind
from workers.services import Services

BATCH = 64
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Part:
    """Some tasks of a course.

    Args:
        features: (tasks, dim), rows of length 1.
        zero_shot: (tasks, labels), the base model's logits.
        classes: (tasks,) indices of labels.
    """

    features: Floats
    zero_shot: Floats
    classes: NDArray[np.intp]

    def __getitem__(self, rows: Sequence[int] | NDArray[np.intp]) -> "Part":
        indices = list(rows)
        return Part(self.features[indices], self.zero_shot[indices], self.classes[indices])


@torch.inference_mode()
def compute(services: Services, course: Course) -> tuple[Part, Part]:
    """The tasks to annotate, and the test tasks."""
    bound = bind(course.label_config)
    return _part(services, bound, course.tasks), _part(services, bound, course.test)


def _part(services: Services, bound: BoundConfig, labeled_tasks: Sequence[LabeledTask]) -> Part:
    problem = bound.bindings[0]
    questions = []
    for data, _ in labeled_tasks:
        question = problem.model_input(data)
        assert isinstance(question, LabelsInput)
        questions.append(question)
    family = services.family(family_for(questions[0]))
    assert isinstance(family, Encoder)
    batches = [questions[start : start + BATCH] for start in range(0, len(questions), BATCH)]
    features = torch.cat([_features(services, family, batch) for batch in batches])
    question = questions[0]
    similarities = family.scale * features @ family.encode_labels(LabelHead().texts(question)).T
    logits = label_logits(similarities, question, family.bias)
    labels = [texts[0] for texts in question.labels]
    classes = np.array([labels.index(label) for _, label in labeled_tasks])
    return Part(features.numpy(), logits.numpy(), classes)


def _features(services: Services, family: Encoder, questions: Sequence[LabelsInput]) -> torch.Tensor:
    """(questions, dim)."""
    prepared = [family.prepare(question, services.fetcher.fetch) for question in questions]
    inputs = family.precompute(prepared, (), None)
    rows = [prepared_input.contents[0].features for prepared_input in inputs]
    return torch.stack([row[0] for row in rows if row is not None])
