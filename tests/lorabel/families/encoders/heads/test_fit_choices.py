from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from lorabel.families.encoders.heads.experts import Discriminants, Regressions
from lorabel.families.encoders.heads.fit_choices import fit_choices
from lorabel.families.encoders.heads.linear_head import probabilities

Array = NDArray[np.float64]
Floats = NDArray[np.float32]

DIM = 24


def blobs(count: int, labels: int, seed: int = 0, noise: float = 0.5) -> tuple[Floats, Floats, NDArray[np.intp]]:
    """Features around a point for each label, zero-shot logits that are often right, and the truth."""
    generator = np.random.default_rng(seed)
    points = np.random.default_rng(1000 + labels).normal(size=(labels, DIM))
    classes = np.arange(count) % labels
    features = points[classes] + noise * generator.normal(size=(count, DIM))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    zero_shot = np.eye(labels)[classes] + generator.normal(size=(count, labels))
    return features.astype(np.float32), zero_shot.astype(np.float32), classes


def one_hot(classes: Sequence[int] | NDArray[np.intp], labels: int) -> Floats:
    return np.eye(labels, dtype=np.float32)[np.asarray(classes)]


def soft_shares(count: int, labels: int, seed: int = 0) -> Array:
    """Shares of three annotators, who agree on some examples and not on others."""
    generator = np.random.default_rng(seed)
    votes = generator.integers(0, labels, (count, 3))
    votes[: count // 2] = votes[: count // 2, :1]
    return np.eye(labels)[votes].mean(1)


def discriminant_of(
    rows: Array, shares: Array, shrinkage: float, scatter_floor: float, count: int
) -> tuple[Array, Array]:
    """Weights and bias, written as in a textbook."""
    counts = shares.sum(0)
    means = np.where(counts[:, None] > 1e-9, shares.T @ rows / np.maximum(counts, 1e-9)[:, None], 0.0)
    scatter = scatter_floor * np.eye(rows.shape[1])
    for row, row_shares in zip(rows, shares, strict=True):
        for share, mean in zip(row_shares, means, strict=True):
            scatter += share * np.outer(row - mean, row - mean)
    shrunk = means * (counts / (counts + 1))[:, None]
    certainty = count * (1 + shrinkage)
    weights = certainty * np.linalg.solve(scatter, shrunk.T)
    return weights, -0.5 * (shrunk * weights.T).sum(1)


@pytest.mark.parametrize("dim", [4, 30])
@pytest.mark.parametrize("is_soft", [False, True])
def test_scores_of_a_discriminant_without_an_example_are_those_of_a_fit_without_it(
    dim: int, is_soft: bool
) -> None:
    generator = np.random.default_rng(dim)
    count, labels, shrinkage = 17, 3, 0.3
    rows = generator.normal(size=(count, dim)) / np.sqrt(dim)
    shares = (
        soft_shares(count, labels) if is_soft else np.eye(labels)[np.r_[generator.integers(0, 2, count - 1), 2]]
    )
    expert = Discriminants(rows, shares, np.arange(count), rows.T @ rows).fit(shrinkage, dim)
    floor = shrinkage * count / dim
    weights, bias = discriminant_of(rows, shares, shrinkage, floor, count)
    assert np.allclose(expert.weights, weights) and np.allclose(expert.bias, bias)
    for index in range(count):
        rest = np.delete(np.arange(count), index)
        weights, bias = discriminant_of(rows[rest], shares[rest], shrinkage, floor, count)
        assert np.allclose(expert.scores_without[index], rows[index] @ weights + bias, atol=1e-8)


@pytest.mark.parametrize("dim", [4, 30])
def test_scores_of_a_regression_without_an_example_are_those_of_a_fit_without_it(dim: int) -> None:
    count, labels, strength = 17, 3, 0.4
    rows = np.random.default_rng(dim).normal(size=(count, dim))
    shares = soft_shares(count, labels)
    judged = np.array([0, 5, 16])
    expert = Regressions(rows, shares, judged, rows.T @ rows).fit(strength)
    for position, index in enumerate(judged):
        rest = np.delete(np.arange(count), index)
        wide = np.c_[rows[rest], np.ones(count - 1)]
        solution = np.linalg.solve(
            wide.T @ wide + strength * np.eye(dim + 1), wide.T @ (shares[rest] - 1 / labels)
        )
        assert np.allclose(expert.scores_without[position], np.r_[rows[index], 1] @ solution, atol=1e-9)


@pytest.mark.parametrize("is_grouped", [False, True])
@pytest.mark.parametrize("count", [6, 15, 60])
def test_order_of_the_examples_does_not_matter(count: int, is_grouped: bool) -> None:
    features, zero_shot, classes = blobs(count, 3)
    shares = one_hot(classes, 3)
    shares[1] = (0.5, 0.25, 0.25)
    unseen, unseen_zero_shot, _ = blobs(20, 3, seed=5)
    answers = []
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(count)
        groups = (order // 2).tolist() if is_grouped else None
        head = fit_choices(features[order], zero_shot[order], shares[order], groups)
        answers.append(probabilities(head, unseen, unseen_zero_shot))
    assert np.abs(np.ptp(answers, axis=0)).max() < 1e-6


def test_head_learns_what_zero_shot_does_not_know() -> None:
    features, zero_shot, classes = blobs(40, 4)
    head = fit_choices(features, zero_shot, one_hot(classes, 4), None)
    unseen, unseen_zero_shot, truth = blobs(200, 4, seed=1)
    assert (unseen_zero_shot.argmax(1) == truth).mean() < 0.6
    assert (probabilities(head, unseen, unseen_zero_shot).argmax(1) == truth).mean() > 0.95


def test_without_annotations_or_with_a_single_choice_so_far_there_is_no_head() -> None:
    features, zero_shot, _ = blobs(5, 3)
    assert fit_choices(features[:0], zero_shot[:0], np.zeros((0, 3), np.float32), None) is None
    for count in (1, 5):
        assert fit_choices(features[:count], zero_shot[:count], one_hot([1] * count, 3), None) is None
    assert np.array_equal(probabilities(None, features, zero_shot).argmax(1), zero_shot.argmax(1))


def test_choice_without_annotations_keeps_its_zero_shot_probability() -> None:
    features, zero_shot, classes = blobs(60, 5)
    known = classes < 4
    head = fit_choices(features[known], zero_shot[known], one_hot(classes[known], 5), None)
    assert head is not None and head.is_learned.tolist() == [True, True, True, True, False]
    before, after = probabilities(None, features, zero_shot), probabilities(head, features, zero_shot)
    assert np.allclose(after[:, 4], before[:, 4], atol=1e-6) and np.allclose(after.sum(1), 1, atol=1e-6)


def test_zero_shot_that_does_worse_than_guessing_says_nothing_of_a_choice_without_annotations() -> None:
    features, zero_shot, classes = blobs(60, 5)
    zero_shot = -4 * zero_shot
    zero_shot[:, 4] = 8
    known = classes < 4
    head = fit_choices(features[known], zero_shot[known], one_hot(classes[known], 5), None)
    after = probabilities(head, features, zero_shot)
    assert (after[known].argmax(1) == classes[known]).all()


@pytest.mark.parametrize(("sureness", "is_heard"), [(3, True), (5, False)])
def test_a_few_unlucky_examples_do_not_silence_zero_shot(sureness: int, is_heard: bool) -> None:
    """Two of four examples are unlikely by zero-shot: a little worse than guessing on all four, or by 4 nats."""
    features, _, classes = blobs(40, 5)
    zero_shot = np.array([3, 3, 0, 0])[:, None] * np.eye(5, dtype=np.float32)[[0, 1, 2, 3]]
    zero_shot[2:, 4] = sureness
    guessing, own = (
        4 * np.log(1 / 5),
        np.log(probabilities(None, features[:4], zero_shot)[range(4), range(4)]).sum(),
    )
    assert guessing - 4 < own < guessing and (own > guessing - 2) == is_heard
    head = fit_choices(features[:4], zero_shot, one_hot(classes[:4], 5))
    sure = 4 * one_hot(classes, 5)
    after = probabilities(head, features, sure)
    assert (after[classes == 4].argmax(1) == 4).all() == is_heard


def test_near_copies_do_not_make_the_head_shrink_too_little() -> None:
    """Each example has 15 near copies, so without itself it is judged right however weakly the head shrinks.

    With weak shrinkage the head learns what the 25 originals are by chance: 0.65 of the others are right.
    """
    points, accuracies = np.random.default_rng(99).normal(size=(3, DIM)), []
    for seed in range(8):
        generator = np.random.default_rng(seed)
        classes, truth = np.arange(25) % 3, np.arange(200) % 3
        originals, unseen = (0.5 * points[of] + generator.normal(size=(len(of), DIM)) for of in (classes, truth))
        copies = np.repeat(originals, 16, axis=0) + 0.1 * generator.normal(size=(400, DIM))
        zero_shot = np.zeros((400, 3), np.float32)
        head = fit_choices(copies.astype(np.float32), zero_shot, one_hot(np.repeat(classes, 16), 3))
        answers = probabilities(head, unseen.astype(np.float32), zero_shot[:200])
        accuracies.append((answers.argmax(1) == truth).mean())
    assert np.mean(accuracies) > 0.69


def test_copies_of_one_group_do_not_make_the_head_sure() -> None:
    generator = np.random.default_rng(0)
    features = np.repeat(generator.normal(size=(30, DIM)), 4, axis=0).astype(np.float32)
    zero_shot = np.zeros((120, 2), np.float32)
    shares = one_hot(np.repeat(generator.integers(0, 2, 30), 4), 2)
    unseen = generator.normal(size=(100, DIM)).astype(np.float32)
    fooled, grouped = (
        probabilities(fit_choices(features, zero_shot, shares, groups), unseen, np.zeros((100, 2), np.float32))
        for groups in (None, np.repeat(np.arange(30), 4).tolist())
    )
    assert grouped.max(1).mean() < 0.65 < 0.8 < fooled.max(1).mean()


def test_feature_that_is_alike_in_the_first_two_examples_does_not_decide() -> None:
    features, _, classes = blobs(200, 2)
    features[:2, 0] = (0.1, 0.1001)
    features[2:, 0] = np.random.default_rng(3).normal(size=198) / DIM**0.5
    head = fit_choices(features[:2], np.zeros((2, 2), np.float32), one_hot(classes[:2], 2), None)
    answers = probabilities(head, features[2:], np.zeros((198, 2), np.float32))
    assert (answers.argmax(1) == classes[2:]).mean() > 0.9


def test_equal_features_are_no_obstacle() -> None:
    features, zero_shot, classes = blobs(8, 2)
    same = np.tile(features[:1], (8, 1))
    answers = probabilities(fit_choices(same, zero_shot, one_hot(classes, 2), None), features, zero_shot)
    assert np.isfinite(answers).all()


@pytest.mark.parametrize("labels", [2, 300])
def test_many_labels(labels: int) -> None:
    features, zero_shot, classes = blobs(2 * labels, labels, noise=0.1)
    head = fit_choices(features, zero_shot, one_hot(classes, labels), None)
    assert (probabilities(head, features, zero_shot).argmax(1) == classes).mean() > 0.9


def test_ten_thousand_annotations() -> None:
    features, zero_shot, classes = blobs(10_000, 3)
    head = fit_choices(features, zero_shot, one_hot(classes, 3), None)
    assert (probabilities(head, features, zero_shot).argmax(1) == classes).mean() > 0.95


def test_one_example_of_each_label_gives_ordinary_logits_that_are_right() -> None:
    """Without the example no score says anything. The scores must not be blown up to make up for that."""
    features, _, classes = blobs(40, 2)
    wrong = np.eye(2, dtype=np.float32)[1 - classes] * 5
    head = fit_choices(features[:2], wrong[:2], one_hot(classes[:2], 2))
    assert head is not None
    logits = head.logits(features, wrong)
    assert np.abs(logits).max() < 10
    assert (logits.argmax(1) == classes).mean() > 0.9


def test_features_in_which_two_examples_are_alike_do_not_decide() -> None:
    """The examples differ in one feature. The others are noise, and the two happen to be close in most of them."""
    generator = np.random.default_rng(0)
    noise = np.concatenate([generator.normal(0, 1e-4, (2, DIM - 1)), generator.normal(0, 0.3, (60, DIM - 1))])
    classes = np.arange(62) % 2
    features = np.concatenate([np.where(classes, 1.0, -1.0)[:, None], noise], 1).astype(np.float32)
    zero_shot = np.zeros((62, 2), np.float32)
    head = fit_choices(features[:2], zero_shot[:2], one_hot(classes[:2], 2))
    assert head is not None
    assert (head.logits(features, zero_shot).argmax(1) == classes).mean() > 0.95
