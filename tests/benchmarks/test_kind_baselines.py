"""The comparisons of other kinds than single choice, on features whose truth is known."""

from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks import kind_baselines
from benchmarks.curve_baselines import cross_validated, scaled
from benchmarks.curve_features import Part
from benchmarks.kind_baselines import Learn
from benchmarks.kind_curves import calibration_error_of
from lorabel.contracts import (
    Content,
    Estimate,
    Input,
    ItemScores,
    LabelScores,
    LabelsInput,
    LabelTarget,
    Modality,
    RankingInput,
    RankingTarget,
    RatingInput,
    RatingTarget,
    SpanScores,
    SpansInput,
    SpanTarget,
)
from lorabel.families.encoders.heads.fit import Example
from lorabel.time_contracts import STEP_S, Segment, SegmentScores, SegmentsInput, SegmentTarget

DIM = 6
TEXT = Content(modality=Modality.TEXT, text="a text")
# Two labels at the top, with three and one below: 0 -> 2, 3, 4 and 1 -> 5.
PARENTS = (-1, -1, 0, 0, 0, 1)
WORDS = ("the", "man", "Ada", "Lee", "sees", "it")


def unit_rows(count: int, seed: int) -> NDArray[np.float32]:
    rows = np.random.default_rng(seed).normal(size=(count, DIM))
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def examples(question: Input, features: NDArray[np.float32], targets: Sequence[Any]) -> list[Example]:
    """Examples with one content each."""
    logits = np.zeros(len(getattr(question, "labels", ())), np.float32)
    return [Example(question, row[None], logits, target) for row, target in zip(features, targets, strict=True)]


def labels_question(count: int, parents: tuple[int, ...] = (), is_multiple: bool = False) -> LabelsInput:
    labels = tuple((f"label {number}",) for number in range(count))
    return LabelsInput(contents=(TEXT,), labels=labels, parents=parents, is_multiple=is_multiple)


def multiple_examples(count: int, seed: int) -> list[Example]:
    """Label 0 fits if the first feature is above 0, label 1 if the second is, label 2 always, label 3 never."""
    features = unit_rows(count, seed)
    targets = [LabelTarget((*(label for label in (0, 1) if row[label] > 0), 2)) for row in features]
    return examples(labels_question(4, is_multiple=True), features, targets)


def rated(count: int, seed: int) -> list[Example]:
    """Stars that are linear in the first feature."""
    features = unit_rows(count, seed)
    targets = [RatingTarget(3 + 2 * float(row[0])) for row in features]
    return examples(RatingInput(contents=(TEXT,), minimum=1, maximum=5), features, targets)


def ranked(count: int, seed: int) -> list[Example]:
    """Three items; the more of the first feature, the better."""
    items = unit_rows(3 * count, seed).reshape(count, 3, DIM)
    question = RankingInput(contents=(TEXT,) * 3, item_indices=(0, 1, 2))
    targets = [RankingTarget(tuple(int(rank) for rank in np.argsort(np.argsort(-rows[:, 0])))) for rows in items]
    no_logits = np.zeros(0, np.float32)
    return [Example(question, rows, no_logits, target) for rows, target in zip(items, targets, strict=True)]


def with_spans(count: int, seed: int) -> list[Example]:
    """Texts of WORDS in any order; `Ada` begins a span, and goes on with `Lee` if that comes next."""
    dice = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        order = dice.permutation(len(WORDS))
        words = [WORDS[index] for index in order]
        text = " ".join(words)
        start = text.index("Ada")
        end = start + (7 if "Ada Lee" in text else 3)
        question = SpansInput(contents=(Content(modality=Modality.TEXT, text=text),), labels=(("person",),))
        states = np.eye(len(WORDS), dtype=np.float32)[order]
        # Each state also has the word before, as a model's states do.
        before = np.concatenate([np.zeros((1, len(WORDS)), np.float32), states[:-1]])
        features = np.concatenate([states, before], axis=1)
        made.append(Example(question, features, np.zeros(0, np.float32), SpanTarget(((start, end, 0),))))
    return made


def test_a_taxonomy_is_answered_with_the_likeliest_leaf_although_its_parent_is_not_the_likeliest() -> None:
    leaves = np.array([0, 0, 0.2, 0.2, 0.2, 0.4])
    tasks = examples(labels_question(6, PARENTS), unit_rows(1, 0), [LabelTarget((1, 5))])
    (answer,) = kind_baselines.choice(tasks, tasks, lambda _, unseen: np.tile(leaves, (len(unseen.classes), 1)))
    assert isinstance(answer, LabelScores)
    assert answer.probabilities[1] * answer.probabilities[5] == pytest.approx(0.4)
    assert sum(answer.probabilities) == answer.probabilities[1] + answer.probabilities[5]


def test_a_taxonomy_is_learned_by_its_leaves() -> None:
    learned: list[Part] = []

    def fit(part: Part, unseen: Part) -> NDArray[np.float64]:
        learned.append(part)
        return np.ones((len(unseen.classes), 6)) / 6

    tasks = examples(labels_question(6, PARENTS), unit_rows(2, 0), [LabelTarget((0, 3)), LabelTarget((1, 5))])
    kind_baselines.choice(tasks, tasks, fit)
    assert learned[0].classes.tolist() == [3, 5]


def test_each_label_of_multiple_choice_is_learned_by_itself() -> None:
    unseen = multiple_examples(100, 1)
    answers = cast(list[LabelScores], kind_baselines.multiple(multiple_examples(60, 0), unseen, scaled))
    for label in (0, 1):
        right = [
            (answer.probabilities[label] > 0.5) == (label in example.target.indices)
            for answer, example in zip(answers, unseen, strict=True)
        ]
        assert np.mean(right) > 0.8
    assert {answer.probabilities[2:] for answer in answers} == {(60.5 / 61, 0.5 / 61)}


@pytest.mark.parametrize("learn", [kind_baselines.ridge_scaled, kind_baselines.ridge_cross_validated])
def test_ridge_regression_is_far_closer_than_the_mean(learn: Learn) -> None:
    learned, unseen = rated(40, 0), rated(100, 1)

    def error(way: Learn) -> float:
        answers = cast(list[Estimate], way(learned, unseen))
        pairs = zip(answers, unseen, strict=True)
        return float(np.mean([abs((answer.value or 0.0) - example.target.value) for answer, example in pairs]))

    assert error(learn) < 0.2 * error(kind_baselines.mean)


def test_the_mean_is_that_of_the_annotations() -> None:
    learned = rated(7, 0)
    (answer,) = cast(list[Estimate], kind_baselines.mean(learned, rated(1, 1)))
    assert answer.value == pytest.approx(np.mean([example.target.value for example in learned]))


@pytest.mark.parametrize("learn", [kind_baselines.ranking_scaled, kind_baselines.ranking_cross_validated])
def test_items_are_ordered_by_what_annotators_prefer(learn: Learn) -> None:
    unseen = ranked(100, 1)
    answers = cast(list[ItemScores], learn(ranked(40, 0), unseen))
    right = [
        answer.scores[better] > answer.scores[worse]
        for answer, example in zip(answers, unseen, strict=True)
        for better, worse in example.target.pairs
    ]
    assert np.mean(right) > 0.9


@pytest.mark.parametrize("learn", [kind_baselines.spans_scaled, kind_baselines.spans_cross_validated])
def test_spans_of_one_and_two_words_are_found(learn: Learn) -> None:
    unseen = with_spans(60, 1)
    answers = cast(list[SpanScores], learn(with_spans(40, 0), unseen))
    found = [[(span.start, span.end, span.label) for span in answer.spans] for answer in answers]
    assert found == [list(example.target.spans) for example in unseen]
    assert len({end - start for ((start, end, _),) in found}) == 2


def with_segments(count: int, seed: int) -> list[Example]:
    """Recordings of 20 windows: label 0 where the first feature is above 0, in windows 5 to 9; label 1 nowhere."""
    question = SegmentsInput(contents=(TEXT,), labels=(("a",), ("b",)))
    made = []
    for number in range(count):
        features = unit_rows(20, 1000 * seed + number)
        features[:, 0] = -np.abs(features[:, 0]) - 0.2
        features[5:10, 0] *= -1
        target = SegmentTarget(((4.5 * STEP_S, 9.5 * STEP_S, 0),))
        made.append(Example(question, features, np.zeros(40, np.float32), target, number))
    return made


def test_segments_are_found_and_a_label_without_any_is_not() -> None:
    unseen = with_segments(5, 1)
    answers = cast(list[SegmentScores], kind_baselines.segments_cross_validated(with_segments(10, 0), unseen))
    for answer in answers:
        (found,) = answer.segments
        assert found.label == 0
        assert (found.start_s, found.end_s) == pytest.approx((4.5 * STEP_S, 9.5 * STEP_S), abs=0.4 * STEP_S)


@pytest.mark.parametrize(
    ("learn", "make"),
    [
        (partial(kind_baselines.multiple, fit=cross_validated), multiple_examples),
        (kind_baselines.ridge_scaled, rated),
        (kind_baselines.ridge_cross_validated, rated),
        (kind_baselines.ranking_cross_validated, ranked),
        (kind_baselines.spans_scaled, with_spans),
        (kind_baselines.spans_cross_validated, with_spans),
        (kind_baselines.segments_cross_validated, with_segments),
    ],
)
def test_one_annotation_is_enough_for_an_answer(learn: Learn, make: Any) -> None:
    assert len(learn(make(1, 0), make(3, 1))) == 3


def test_calibration_of_a_taxonomy_is_that_of_whole_paths() -> None:
    tasks = examples(labels_question(6, PARENTS), unit_rows(2, 0), [LabelTarget((0, 2)), LabelTarget((0, 3))])
    answer = LabelScores(probabilities=(0.8, 0.2, 0.5, 0.3, 0.2, 1.0))
    # Predicted twice: 0 -> 2 with 0.8 * 0.5, right once.
    assert calibration_error_of(tasks, [answer, answer]) == pytest.approx(abs(0.4 - 0.5))


def test_calibration_of_multiple_choice_is_that_of_each_label() -> None:
    tasks = examples(labels_question(2, is_multiple=True), unit_rows(1, 0), [LabelTarget((0,))])
    assert calibration_error_of(tasks, [LabelScores(probabilities=(0.9, 0.1))]) == pytest.approx(0.1)
    assert calibration_error_of(tasks, [LabelScores(probabilities=(0.1, 0.9))]) == pytest.approx(0.9)


def test_calibration_of_a_ranking_is_that_of_each_pair() -> None:
    question = RankingInput(contents=(TEXT,) * 2, item_indices=(0, 1))
    task = Example(question, unit_rows(2, 0), np.zeros(0, np.float32), RankingTarget((0, 1)))
    gap = float(np.log(4))
    assert calibration_error_of([task], [ItemScores(scores=(gap, 0.0))]) == pytest.approx(0.2)
    assert calibration_error_of([task], [ItemScores(scores=(0.0, gap))]) == pytest.approx(0.8)


def test_estimates_have_no_calibration_error() -> None:
    assert calibration_error_of(rated(2, 0), [Estimate(value=3.0)] * 2) is None


def test_calibration_of_segments_is_that_of_each_that_was_found() -> None:
    question = SegmentsInput(contents=(Content(modality=Modality.AUDIO, text=""),), labels=(("a",),))
    example = Example(question, np.zeros((9, 2), np.float32), np.zeros(9), SegmentTarget(((0.0, 1.0, 0),)))
    found = tuple(
        Segment(start_s=start, end_s=start + 1, label=0, probability=score)
        for start, score in ((0, 0.9), (5, 0.6))
    )
    error = calibration_error_of([example], [SegmentScores(segments=found, length_s=9.0)])
    assert error == pytest.approx((0.1 + 0.6) / 2)
