"""Heads on the demo model's features of drawn pictures: accuracy on pictures that nobody annotated."""

import base64
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from benchmarks.kind_courses import KindCourse, match, several
from lorabel.contracts import MediaRef
from lorabel.demo import MODEL_FOLDER
from lorabel.families.base import NoBatchAdapters
from lorabel.families.cache import FEATURES, TEXTS, FeatureCache
from lorabel.families.dual_encoder import DualEncoder
from lorabel.families.encoders.heads.fit import Example, fit_head
from lorabel.feature_contracts import Features, FeaturesInput
from lorabel.problems.binding import bind
from lorabel.settings import Settings
from tests.e2e.courses import Course
from tests.e2e.courses.image_text import COURSE as IMAGE_AND_TEXT
from tests.e2e.courses.ranking import COURSE as RANKING
from tests.e2e.courses.rating import COURSE as RATING

pytestmark = pytest.mark.slow

BANK = NoBatchAdapters()


@pytest.fixture(scope="module")
def demo_model() -> DualEncoder:
    return DualEncoder.load(f"local-dir:{MODEL_FOLDER}", torch.device("cpu"), torch.float32, Settings())


def read(media: MediaRef) -> bytes:
    return base64.b64decode(media.url.partition(",")[2])


def learn(
    family: DualEncoder, course: Course | KindCourse, annotated: Sequence[int], tested: int
) -> tuple[list[float], Any]:
    """The primary metric on the last tasks, with a head from each number of first tasks; and the last head."""
    (problem,) = bind(course.label_config).bindings
    tasks = [*course.tasks, *course.test] if isinstance(course, KindCourse) else course.tasks
    questions = [problem.model_input(data) for data, _ in tasks]
    targets = [problem.target(result, data) for data, result in tasks]
    cache = FeatureCache({FEATURES: 10**8, TEXTS: 10**8})
    asked = [family.prepare(FeaturesInput.of(question), read) for question in questions]
    answers = family.predict(asked, [None] * len(asked), BANK, cache)
    examples = [
        Example.of(question, answer, target)
        for question, answer, target in zip(questions, answers, targets, strict=True)
        if isinstance(answer, Features)
    ]
    inputs = [family.prepare(question, read) for question in questions[-tested:]]
    reached, head = [], None
    for count in annotated:
        assert count + tested <= len(examples)
        head = fit_head(examples[:count], f"{family.name} {family.source}")
        with_heads = [family.with_head(prepared, head) for prepared in inputs]
        outputs = family.predict(with_heads, [None] * len(inputs), BANK, cache)
        metrics = problem.metrics(targets[-tested:], outputs)
        reached.append(float(metrics.values[metrics.primary]))
    return reached, head


@pytest.mark.long
def test_the_relation_of_a_picture_and_a_caption_is_learned(demo_model: DualEncoder) -> None:
    """From chance to 0.85 within 160 annotations; a wrong caption names another colour or another shape."""
    (at_40, at_80, at_160), head = learn(demo_model, match(), (40, 80, 160), 100)
    assert min(at_40, at_80, at_160) > 0.8 and at_160 > 0.85
    assert head.feature_map == "products"


@pytest.mark.parametrize(
    ("course", "annotated", "goal"),
    [
        (several, 160, 0.75),
        (lambda: RATING, 48, 0.85),
        (lambda: RANKING, 40, 0.9),
        (lambda: IMAGE_AND_TEXT, 48, 0.9),
    ],
    ids=["multiple", "rating", "ranking", "picture and text"],
)
def test_a_head_is_far_better_than_zero_shot(
    demo_model: DualEncoder, course: Callable[[], Course | KindCourse], annotated: int, goal: float
) -> None:
    (without, reached), _ = learn(demo_model, course(), (0, annotated), 40)
    assert without < 0.5
    assert reached > goal
