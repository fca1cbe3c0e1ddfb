"""Heads of every kind of question, on drawn features whose truth the test knows, counted on tasks not annotated.

The features are random directions of length 1. What is right depends on a hidden direction of them.
"""

import itertools
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from lorabel.contracts import (
    Content,
    EmbedInput,
    LabelsInput,
    LabelTarget,
    Modality,
    RankingInput,
    RankingTarget,
    RatingInput,
    RatingTarget,
)
from lorabel.families.encoders.heads.fit import Example, fit_head
from lorabel.families.encoders.heads.head_answers import answer_with_head

pytestmark = pytest.mark.slow

DIM = 32
TEXT, PICTURE = Content(modality=Modality.TEXT, text="x"), Content(modality=Modality.IMAGE, text="x")
LABELS = (("a",), ("b",), ("c",), ("d",))
SINGLE = LabelsInput(contents=(TEXT,), labels=LABELS[:3])
MULTIPLE = LabelsInput(contents=(TEXT,), labels=LABELS, is_multiple=True)
TREE = LabelsInput(contents=(TEXT,), labels=(*LABELS, ("e",), ("f",)), parents=(-1, -1, 0, 0, 1, 1))
STARS = RatingInput(contents=(TEXT,), minimum=1, maximum=5)
PAIR = RankingInput(contents=(TEXT, TEXT), item_indices=(0, 1))
SEARCH = RankingInput(contents=(TEXT,) * 5, item_indices=(-1, 0, 1, 2, 3))
RELATION = LabelsInput(contents=(PICTURE, TEXT), labels=(("match",), ("mismatch",)))


def unit(rows: np.ndarray) -> np.ndarray:
    return np.asarray(rows / np.linalg.norm(rows, axis=-1, keepdims=True), np.float32)


def drawn(seed: int, count: int, contents: int = 1) -> np.ndarray:
    """(count, contents, DIM) of length 1, spread around a common direction, as real features are."""
    rng = np.random.default_rng(seed)
    return unit(rng.normal(size=(count, contents, DIM)) + 2 * np.eye(DIM)[0])


def example(question: Any, features: np.ndarray, target: Any, logits: Any = ()) -> Example:
    return Example(question, features, np.array(logits, np.float32), target)


def single(seed: int, count: int) -> list[Example]:
    """The label is the largest of three coordinates; the base model knows nothing."""
    return [
        example(SINGLE, rows, LabelTarget((int(rows[0, 1:4].argmax()),)), np.zeros(3))
        for rows in drawn(seed, count)
    ]


def multiple(seed: int, count: int) -> list[Example]:
    """A label fits if its coordinate is above 0; the last never fits, and zero-shot says that it does."""
    return [
        example(MULTIPLE, rows, LabelTarget(tuple(np.flatnonzero(rows[0, 1:4] > 0).tolist())), [0, 0, 0, 2.0])
        for rows in drawn(seed, count)
    ]


def tree(seed: int, count: int) -> list[Example]:
    """One coordinate decides the parent, another the child; the child `f` never comes."""
    examples = []
    for rows in drawn(seed, count):
        parent = int(rows[0, 1] > 0)
        child = 4 if parent else 2 + int(rows[0, 2] > 0)
        examples.append(example(TREE, rows, LabelTarget((parent, child)), np.zeros(6)))
    return examples


def stars(seed: int, count: int) -> list[Example]:
    return [example(STARS, rows, RatingTarget(_stars(rows))) for rows in drawn(seed, count)]


def _stars(rows: np.ndarray) -> float:
    return float(np.clip(3 + 4 * rows[0, 1], 1, 5))


def pairs(seed: int, count: int) -> list[Example]:
    return [
        example(PAIR, rows, RankingTarget((0, 1) if rows[0, 1] > rows[1, 1] else (1, 0)))
        for rows in drawn(seed, count, 2)
    ]


def searches(seed: int, count: int) -> list[Example]:
    """Items are ranked by their similarity with the query in the first half of the coordinates."""
    examples = []
    for rows in drawn(seed, count, 5):
        likeness = rows[1:, : DIM // 2] @ rows[0, : DIM // 2]
        examples.append(example(SEARCH, rows, RankingTarget(tuple((-likeness).argsort().argsort().tolist()))))
    return examples


def relations(seed: int, count: int) -> list[Example]:
    """The text is near the picture, up to a shift between the modalities, or near something else."""
    examples = []
    for rows in drawn(seed, count, 3):
        is_match = bool(rows[2, 3] > 0)
        text = unit(0.7 * rows[0] + 0.3 * rows[1] if is_match else rows[1]) + np.eye(DIM, dtype=np.float32)[5]
        target = LabelTarget((0 if is_match else 1,))
        examples.append(example(RELATION, np.stack([rows[0], unit(text)]), target, np.zeros(2)))
    return examples


KINDS: dict[str, Callable[[int, int], list[Example]]] = {
    "single": single,
    "multiple": multiple,
    "tree": tree,
    "stars": stars,
    "pairs": pairs,
    "searches": searches,
    "relations": relations,
}


def share_right(examples: list[Example], test: list[Example]) -> float:
    """The share of test tasks that the head answers like their target; stars within a half."""
    head = fit_head(examples, "space")
    assert head is not None
    return float(
        np.mean([_is_right(one, answer_with_head(head, one.question, one.features, one.logits)) for one in test])
    )


def _is_right(one: Example, answer: Any) -> float:
    if isinstance(one.target, RatingTarget):
        return float(abs(answer.value - one.target.value) < 0.5)
    if isinstance(one.target, RankingTarget):
        return float(np.mean([answer.scores[better] > answer.scores[worse] for better, worse in one.target.pairs]))
    probabilities = np.array(answer.probabilities)
    if one.question is MULTIPLE:
        return float(set(np.flatnonzero(probabilities[:3] > 0.5)) == set(one.target.indices))
    if one.question is TREE:
        parent = int(probabilities[:2].argmax())
        children = 2 + 2 * parent + np.arange(2)
        return float((parent, int(children[probabilities[children].argmax()])) == one.target.indices)
    return float(probabilities.argmax() == one.target.indices[0])


@pytest.mark.parametrize(
    ("kind", "chance", "goal"),
    [
        ("single", 0.33, 0.75),
        ("multiple", 0.13, 0.6),
        ("tree", 0.25, 0.75),
        ("stars", 0.5, 0.95),
        ("pairs", 0.5, 0.85),
        ("searches", 0.7, 0.85),
        ("relations", 0.5, 0.95),
    ],
)
def test_a_head_learns_every_kind_of_question_from_160_tasks(kind: str, chance: float, goal: float) -> None:
    test = KINDS[kind](1, 200)
    reached = share_right(KINDS[kind](0, 160), test)
    assert reached > goal > chance


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_the_examples_changes_nothing(kind: str) -> None:
    examples = KINDS[kind](0, 30)
    files = set()
    for seed in range(4):
        random.Random(seed).shuffle(examples)
        head = fit_head(examples, "space")
        assert head is not None
        files.add(head.to_bytes())
    assert len(files) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_annotated_has_no_head_and_few_annotations_do_no_harm(kind: str) -> None:
    assert fit_head([], "space") is None
    for count in range(1, 12):
        head = fit_head(KINDS[kind](3, count), "space")
        for one in KINDS[kind](4, 5) if head is not None else []:
            answer = answer_with_head(head, one.question, one.features, one.logits)
            assert np.isfinite(list(itertools.chain(*_numbers(answer)))).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_head_says_what_it_was_fitted_for(kind: str) -> None:
    examples = KINDS[kind](0, 20)
    head = fit_head(examples, "a space")
    assert head is not None
    assert (head.kind, head.space) == (examples[0].question.kind, "a space")


def test_one_class_is_silent_and_multiple_choice_without_any_choice_too() -> None:
    same = [replace(one, target=LabelTarget((1,))) for one in single(0, 20)]
    assert fit_head(same, "space") is None
    one_path = [replace(one, target=LabelTarget((1, 4))) for one in tree(0, 20)]
    assert fit_head(one_path, "space") is None
    nothing = [replace(one, target=LabelTarget(())) for one in multiple(0, 20)]
    assert fit_head(nothing, "space") is None
    assert fit_head(pairs(0, 1), "space") is None
    assert fit_head(stars(0, 1), "space") is None


def test_labels_that_were_never_chosen_keep_their_zero_shot_probability() -> None:
    head = fit_head(multiple(0, 60), "space")
    assert head is not None and head.is_learned.tolist() == [True, True, True, False]
    (one,) = multiple(1, 1)
    answer = answer_with_head(head, one.question, one.features, one.logits)
    assert answer.probabilities[3] == pytest.approx(1 / (1 + np.exp(-2.0)))  # type: ignore[attr-defined]


def test_a_parent_whose_tasks_all_go_on_to_one_child_learns_that_child() -> None:
    head = fit_head(tree(0, 80), "space")
    assert head is not None
    (one,) = tree(1, 1)
    answer = answer_with_head(head, one.question, one.features, one.logits)
    assert answer.probabilities[4] > 0.9 > 0.1 > answer.probabilities[5]  # type: ignore[attr-defined]


def test_soft_targets_become_soft_answers() -> None:
    """Annotators disagree two to one about every task of a kind."""
    examples = []
    for rows in drawn(0, 200):
        shares = (2 / 3, 1 / 3, 0.0) if rows[0, 1] > 0 else (0.0, 1 / 3, 2 / 3)
        target = LabelTarget((int(np.argmax(shares)),), shares)
        examples.append(example(SINGLE, rows, target, np.zeros(3)))
    head = fit_head(examples, "space")
    assert head is not None
    test = [rows for rows in drawn(1, 400) if rows[0, 1] > 0.15]
    answers: list[Any] = [answer_with_head(head, SINGLE, rows, np.zeros(3, np.float32)) for rows in test]
    shares_answered = np.mean([answer.probabilities for answer in answers], axis=0)
    assert shares_answered == pytest.approx((2 / 3, 1 / 3, 0), abs=0.12)


@pytest.mark.parametrize("count", [2, 5, 10, 40])
def test_a_rating_that_has_nothing_to_do_with_the_features_is_about_as_good_as_the_mean(count: int) -> None:
    errors, mean_errors = [], []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        unrelated = [replace(one, target=RatingTarget(float(rng.integers(1, 6)))) for one in stars(seed, count)]
        head = fit_head(unrelated, "space")
        assert head is not None
        mean = np.mean([one.target.value for one in unrelated])
        for one in stars(100 + seed, 20):
            truth = float(rng.integers(1, 6))
            answer = answer_with_head(head, one.question, one.features, one.logits)
            errors.append(abs(answer.value - truth))  # type: ignore[attr-defined]
            mean_errors.append(abs(mean - truth))
    assert np.mean(errors) < 1.06 * np.mean(mean_errors)


def test_the_expected_error_of_a_rating_is_about_the_error_on_other_tasks() -> None:
    rng = np.random.default_rng(0)

    def noisy(seed: int, count: int) -> list[Example]:
        return [
            replace(one, target=RatingTarget(float(np.clip(one.target.value + rng.normal() / 2, 1, 5))))
            for one in stars(seed, count)
        ]

    head = fit_head(noisy(0, 100), "space")
    assert head is not None
    test = noisy(1, 300)
    answers: list[Any] = [answer_with_head(head, one.question, one.features, one.logits) for one in test]
    error = np.mean([abs(answer.value - one.target.value) for answer, one in zip(answers, test, strict=True)])
    assert answers[0].expected_error == pytest.approx(error, rel=0.25)


def test_the_relation_of_a_picture_and_a_text_is_learned_with_products() -> None:
    head = fit_head(relations(0, 60), "space")
    assert head is not None
    assert (head.feature_map, head.slots) == ("products", ("image", "text"))


def test_a_question_without_heads_is_named() -> None:
    asked = EmbedInput(contents=(TEXT,))
    with pytest.raises(TypeError, match="embed"):
        fit_head([example(asked, drawn(0, 1)[0], None)], "space")


def _numbers(answer: Any) -> list[Any]:
    return [value if isinstance(value, tuple) else (value,) for value in answer.model_dump().values()]


def test_heads_are_fitted_and_applied_without_torch() -> None:
    modules = "lorabel.families.encoders.heads.fit, lorabel.families.encoders.heads.head_answers"
    program = f"import sys, {modules}; print('torch' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout == "False\n"
