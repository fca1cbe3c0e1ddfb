"""The head of boxes against scikit-learn, and on places whose probabilities are known."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from lorabel.contracts import Content, Modality
from lorabel.families.detection.fit_boxes import MOST_ROWS, OF_WEIGHTS, AnnotatedPlaces, fit_boxes
from lorabel.families.encoders.heads.fit import Example, fit_head
from lorabel.families.encoders.heads.linear_head import LinearHead
from lorabel.space_contracts import MOST_PLACES, BoxesInput, BoxTarget, Corners
from workers.calibration import Case, calibration_error

DIM = 12


def corners(number: int) -> Corners:
    return (number / 1000, 0.0, number / 1000 + 0.1, 0.1)


def picture(rng: np.random.Generator, right: np.ndarray, others: int = 20, labels: int = 1) -> AnnotatedPlaces:
    """Places at random; those of boxes lie in the direction `right`. The zero-shot logits say nothing."""
    boxes = int(rng.integers(1, 4))
    features = rng.normal(size=(boxes + others, DIM))
    features[:boxes] += right
    target = BoxTarget(tuple((corners(number), 0) for number in range(boxes)))
    zero_shot = np.zeros((len(features), labels), np.float32)
    return AnnotatedPlaces(features.astype(np.float32), zero_shot, target)


def logits(head: LinearHead, places: AnnotatedPlaces) -> np.ndarray:
    return head.logits(places.features, places.zero_shot)


def test_two_pictures_give_the_logistic_regression_of_scikit_learn() -> None:
    rng = np.random.default_rng(1)
    pictures = [picture(rng, np.full(DIM, 0.6)) for _ in range(2)]
    head = fit_boxes(pictures)
    assert head is not None
    features = np.concatenate([each.features for each in pictures]).astype(np.float64)
    scale = np.linalg.norm(features, axis=1).mean()
    inputs = np.column_stack([features / scale, np.ones(len(features))])
    truth = np.concatenate([np.arange(len(each.features)) < len(each.target.boxes) for each in pictures])
    reference = LogisticRegression(C=1 / OF_WEIGHTS, fit_intercept=False, tol=1e-8, max_iter=1000)
    expected = reference.fit(inputs, truth).decision_function(inputs)
    found = np.concatenate([logits(head, each)[:, 0] for each in pictures])
    assert found == pytest.approx(expected, abs=0.02)


def test_the_logit_of_the_text_stays_where_it_is_right_and_loses_its_weight_where_it_is_not() -> None:
    rng = np.random.default_rng(2)
    weights = []
    for sign in (1.0, -1.0):
        pictures = []
        for _ in range(6):
            each = picture(rng, np.zeros(DIM))
            each.zero_shot[:, 0] = -3.0 * sign
            each.zero_shot[: len(each.target.boxes), 0] = 3.0 * sign
            pictures.append(each)
        head = fit_boxes(pictures)
        assert head is not None
        weights.append(float(np.asarray(head.zero_shot_weight)[0]))
    assert weights[0] > 0.8 and weights[1] < 0.0, weights


def test_scores_say_how_often_boxes_are_right_in_other_pictures() -> None:
    """The places of boxes and the others overlap, so that nobody could be sure."""
    rng = np.random.default_rng(3)
    direction = np.full(DIM, 0.35)
    pictures, unseen = ([picture(rng, direction) for _ in range(count)] for count in (12, 300))
    head = fit_boxes(pictures)
    assert head is not None
    cases = []
    for each in unseen:
        right = 1 / (1 + np.exp(-logits(head, each)[:, 0]))
        cases += [
            Case((1 - float(probability), float(probability)), int(row < len(each.target.boxes)))
            for row, probability in enumerate(right)
        ]
    assert calibration_error(cases) < 0.05


def test_a_label_without_a_box_is_not_learned_and_a_box_may_have_two_labels() -> None:
    rng = np.random.default_rng(4)
    each = picture(rng, np.full(DIM, 2.0), labels=3)
    (first, *rest) = each.target.boxes
    two = AnnotatedPlaces(
        np.concatenate([each.features[:1], each.features]),
        np.concatenate([each.zero_shot[:1], each.zero_shot]),
        BoxTarget((first, (first[0], 2), *rest)),
    )
    head = fit_boxes([two])
    assert head is not None and head.is_learned.tolist() == [True, False, True]
    of_first = logits(head, two)[0]
    assert of_first[0] > 0 and of_first[2] > 0 and of_first[1] == 0
    assert fit_boxes([AnnotatedPlaces(each.features, each.zero_shot, BoxTarget(()))]) is None


def test_places_do_not_teach_that_they_lack_a_label_that_may_be_there() -> None:
    """In half of the pictures the boxes of label 1 have no place, and things of label 1 are among the others."""
    rng = np.random.default_rng(9)
    directions = np.eye(DIM)[:2] * 4

    def drawn(*, is_complete: bool) -> AnnotatedPlaces:
        features = rng.normal(size=(20, DIM))
        features[0] += directions[0]
        features[1:4] += directions[1]
        boxes = ((corners(0), 0), *((corners(number), 1) for number in (1, 2, 3) if is_complete))
        target = BoxTarget(boxes, incomplete=() if is_complete else (1,))
        return AnnotatedPlaces(features.astype(np.float32), np.full((20, 2), -3, np.float32), target)

    pictures = [drawn(is_complete=number < 2) for number in range(6)]
    as_nothing = [replace(each, target=replace(each.target, incomplete=())) for each in pictures]
    unseen = drawn(is_complete=True)
    found, misled = (fit_boxes(each) for each in (pictures, as_nothing))
    assert found is not None and misled is not None
    assert logits(found, unseen)[1:4, 1].mean() > 1 and logits(misled, unseen)[1:4, 1].mean() < 0
    assert logits(found, unseen)[4:, 1].mean() < -1, "the complete pictures still say what is none"


def test_crowded_pictures_are_learned_within_the_limit_of_rows() -> None:
    rng = np.random.default_rng(5)
    boxes = MOST_PLACES + 50
    features = rng.normal(size=(MOST_PLACES + 48, DIM)).astype(np.float32)
    features[:MOST_PLACES] += 1
    target = BoxTarget(tuple((corners(number), 0) for number in range(boxes)))
    crowded = AnnotatedPlaces(features, np.zeros((len(features), 1), np.float32), target)
    head = fit_boxes([crowded] * (1 + MOST_ROWS // MOST_PLACES))
    assert head is not None and logits(head, crowded)[:MOST_PLACES].mean() > 0


def test_a_label_that_stands_in_few_of_many_crowded_pictures_is_learned() -> None:
    """Before, the rows were used up by the first pictures, in an order that has no meaning."""
    rng = np.random.default_rng(6)
    direction = np.eye(DIM)[0] * 4
    pictures, count, last = [], 2 * MOST_ROWS // MOST_PLACES, MOST_PLACES - 1
    for number in range(count):
        features = rng.normal(size=(MOST_PLACES + 48, DIM))
        features[:MOST_PLACES, 1] += 4
        labels = [0] * MOST_PLACES
        if number == count - 1:
            labels[last], features[last] = 1, features[last] + direction
        target = BoxTarget(tuple((corners(row), label) for row, label in enumerate(labels)))
        zero_shot = np.full((len(features), 2), -3, np.float32)
        pictures.append(AnnotatedPlaces(features.astype(np.float32), zero_shot, target))
    head = fit_boxes(pictures)
    assert head is not None and head.is_learned.tolist() == [True, True]
    found = logits(head, pictures[-1])[:, 1]
    assert found.argmax() == last, "the box of the rare label is not the likeliest"


def test_a_picture_without_a_place_is_no_reason_to_learn_nothing() -> None:
    """As where every predicted box lies in the padding of a very narrow picture."""
    rng = np.random.default_rng(7)
    each = picture(rng, np.full(DIM, 1.0))
    question = BoxesInput(contents=(Content(modality=Modality.IMAGE, text=""),), labels=(("car",),))
    usual = Example(question, each.features, each.zero_shot.ravel(), each.target)
    empty = Example(question, np.zeros((0, DIM), np.float32), np.zeros(0, np.float32), BoxTarget(()))
    head = fit_head([usual, empty], "space")
    assert head is not None and head.is_learned.all()
