"""What the scores say before anything was annotated, with the demo model, which knows drawn pictures."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from time import monotonic
from types import SimpleNamespace
from typing import Any, Literal, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from lorabel.contracts import LabelsInput, MediaRef
from lorabel.demo import MODEL_FOLDER
from lorabel.demo.pictures import COLOURS, FILLS, SHAPES, Picture, random_pictures
from lorabel.families.base import NoBatchAdapters
from lorabel.families.cache import FEATURES, TEXTS, FeatureCache
from lorabel.families.dual_encoder import DualEncoder
from lorabel.families.encoders.prepared_input import PreparedInput
from lorabel.inference.messages import PredictRow, Priority, RowResult
from lorabel.inference.prediction import ask
from lorabel.inference.question import Question
from lorabel.inference.requests import PredictionCaller
from lorabel.media import data_url as data_urls
from lorabel.problems.base import Prediction
from lorabel.problems.binding import bind
from lorabel.settings import Settings
from tests.workers.pictures import data_url

pytestmark = pytest.mark.slow

PICTURES = tuple(islice(random_pictures(78), 150))
# Words that the demo model was not trained on.
UNKNOWN = (
    ("cat", "invoice"),
    ("match", "mismatch"),
    ("alpha", "beta"),
    ("ok", "defect"),
    ("A", "B", "C", "zebra"),
    ("sad", "urgent", "tower", "politics"),
    ("Baum", "spam", "later", "left", "river", "truck", "hole", "fits", "dog", "ham"),
)
Attribute = Literal["colour", "shape", "fill"]
Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class ZeroShot:
    """The demo model without any adapter, and the features of PICTURES."""

    family: DualEncoder
    prepared: tuple[PreparedInput, ...]

    def predict(
        self, labels: Sequence[str], temperature: float | None = None, choice: str = "single"
    ) -> list[Prediction]:
        """One prediction per picture.

        Args:
            temperature: as a version was calibrated; None if nothing was.
            choice: the attribute of the control tag.
        """
        choices = "".join(f'<Choice value="{label}"/>' for label in labels)
        image = '<Image name="i" value="$i"/>'
        config = f'<View>{image}<Choices name="c" toName="i" choice="{choice}">{choices}</Choices></View>'
        (binding,) = bind(config).bindings
        question = binding.model_input({"i": "http://pictures.test/a.png"})
        cache = FeatureCache({FEATURES: 10**8, TEXTS: 10**8})

        def outputs(rows: Sequence[PredictRow], *_: Any) -> list[RowResult]:
            inputs = [replace(prepared, question=question) for prepared in self.prepared]
            computed = self.family.predict(inputs, [None] * len(inputs), NoBatchAdapters(), cache)
            assert [self.family.answer(prepared, None, NoBatchAdapters(), cache) for prepared in inputs] == list(
                computed
            )
            return [RowResult(output=output.model_dump()) for output in computed]

        caller = PredictionCaller(cast(Any, SimpleNamespace(predict=outputs)), 1, Priority.BULK, monotonic() + 60)
        answers = ask(caller, [Question(binding, {}, question, None, temperature=temperature)] * len(PICTURES))
        assert all(isinstance(answer, Prediction) for answer in answers)
        return cast(list[Prediction], answers)


@pytest.fixture(scope="module")
def zero_shot() -> ZeroShot:
    family = DualEncoder.load(f"local-dir:{MODEL_FOLDER}", torch.device("cpu"), torch.float32, Settings())
    (binding,) = bind(
        '<View><Image name="i" value="$i"/><Choices name="c" toName="i"><Choice value="a"/></Choices></View>'
    ).bindings

    def prepare(picture: Picture) -> PreparedInput:
        question = cast(LabelsInput, binding.model_input({"i": data_url(picture)}))
        return family.prepare(question, fetch)

    def fetch(media: MediaRef) -> bytes:
        return data_urls.decode(media.url)

    prepared = [prepare(picture) for picture in PICTURES]
    cache = FeatureCache({FEATURES: 10**8})
    with torch.inference_mode():
        return ZeroShot(
            family, tuple(family.add_features(prepared, [None] * len(prepared), NoBatchAdapters(), cache))
        )


def scores(answers: Sequence[Prediction]) -> Numbers:
    return np.array([answer.score for answer in answers])


def right(answers: Sequence[Prediction], attribute: Attribute) -> NDArray[np.bool_]:
    chosen = [answer.regions[0]["value"]["choices"] for answer in answers]
    return np.array(
        [[getattr(picture, attribute)] == choice for picture, choice in zip(PICTURES, chosen, strict=True)]
    )


def above_chance(score: float, labels: Sequence[str]) -> float:
    """0 for chance, 1 for certainty."""
    return (score - 1 / len(labels)) / (1 - 1 / len(labels))


def test_labels_that_the_model_cannot_know_are_hardly_ever_scored_as_certain(zero_shot: ZeroShot) -> None:
    found = [scores(zero_shot.predict(labels)) for labels in UNKNOWN]
    means = [above_chance(float(of.mean()), labels) for of, labels in zip(found, UNKNOWN, strict=True)]
    certain = np.mean([(of > 0.95).mean() for of in found])
    assert (np.mean(means) < 0.35, certain < 0.03) == (True, True), (np.mean(means), certain)


def test_labels_that_the_model_knows_stay_far_above_chance_and_right(zero_shot: ZeroShot) -> None:
    answers = zero_shot.predict(FILLS)
    assert right(answers, "fill").mean() > 0.95
    assert scores(answers).mean() > 0.9
    for labels, attribute in ((tuple(COLOURS), "colour"), (tuple(SHAPES), "shape")):
        answers = zero_shot.predict(labels)
        assert right(answers, cast(Attribute, attribute)).mean() > 0.9
        assert scores(answers).mean() > 3 / len(labels)


@pytest.mark.parametrize(
    ("labels", "attribute"), [(tuple(SHAPES), "shape"), (("circle", "square", "star"), "shape")]
)
def test_the_answers_are_the_same_and_the_wrong_ones_still_come_first(
    zero_shot: ZeroShot, labels: tuple[str, ...], attribute: Attribute
) -> None:
    """`order` by uncertainty takes the lowest scores first."""
    tempered, raw = zero_shot.predict(labels), zero_shot.predict(labels, temperature=1.0)
    assert [answer.regions for answer in tempered] == [answer.regions for answer in raw]
    is_right = right(raw, attribute)
    assert 0 < is_right.mean() < 1
    assert wrong_come_first(tempered, is_right) > wrong_come_first(raw, is_right) - 0.05


def test_a_version_that_was_calibrated_scores_as_it_was_calibrated(zero_shot: ZeroShot) -> None:
    """The probabilities themselves are not tempered, so the temperature of a calibration means the same."""
    raw, calibrated = (scores(zero_shot.predict(("red", "blue"), temperature)) for temperature in (1.0, 2.0))
    is_exact = raw < 0.999999
    odds = raw[is_exact] / (1 - raw[is_exact])
    assert len(odds)
    assert calibrated[is_exact] == pytest.approx(1 / (1 + odds**-0.5), abs=1e-4)


@pytest.mark.parametrize(("labels", "least"), [(("circle", "square"), 0.5), (tuple(SHAPES), 0.45), (FILLS, 0.7)])
def test_of_several_labels_those_that_fit_are_chosen_and_few_others(
    zero_shot: ZeroShot, labels: tuple[str, ...], least: float
) -> None:
    """`least`: of the F1 score over all labels and pictures."""
    answers = zero_shot.predict(labels, choice="multiple")
    chosen = [set(answer.regions[0]["value"]["choices"]) if answer.regions else set() for answer in answers]
    true = [{picture.shape, picture.fill} & set(labels) for picture in PICTURES]
    hits = sum(len(some & others) for some, others in zip(chosen, true, strict=True))
    assert 2 * hits / (sum(map(len, true)) + sum(map(len, chosen))) > least


def wrong_come_first(answers: Sequence[Prediction], is_right: NDArray[np.bool_]) -> float:
    """The probability that a wrong answer has a lower score than a right one."""
    found = scores(answers)
    return float(np.mean(found[~is_right][:, None] < found[is_right][None, :]))
