"""Heads that are fitted with noise: what one task can change, how large the noise is, and what is learned all the
same."""

import numpy as np
import pytest

from lorabel.families.encoders.heads.fit_private import ROW_LENGTH, fit_private_choices, noisy_sums
from lorabel.families.encoders.heads.linear_head import probabilities

LABELS, DIM = 3, 16


def drawn(count: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, zero-shot logits and shares of tasks whose features show their label."""
    generator = np.random.default_rng(seed)
    means = np.random.default_rng(1).standard_normal((LABELS, DIM))
    classes = np.arange(count) % LABELS
    features = means[classes] + generator.standard_normal((count, DIM))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    zero_shot = np.tile(np.array([1.0, 0.0, 0.0]), (count, 1))
    return features.astype(np.float32), zero_shot.astype(np.float32), np.eye(LABELS, dtype=np.float32)[classes]


@pytest.mark.parametrize("length", [0.1, 1.0, 50.0])
@pytest.mark.parametrize("share", [0.2, 1.0, 7.0])
def test_a_task_changes_the_sums_by_no_more_than_a_unit_of_noise(length: float, share: float) -> None:
    """Whatever its features and shares are, also such as no model and no annotator gives."""
    features, zero_shot, shares = drawn(30, seed=2)
    features[7] *= length
    shares[7] *= share
    generator = np.random.default_rng(0)
    others = np.arange(30) != 7
    with_task = noisy_sums(features, zero_shot, shares, 0.0, generator)
    without = noisy_sums(features[others], zero_shot[others], shares[others], 0.0, generator)
    assert np.linalg.norm(with_task - without) <= ROW_LENGTH * (1 + 1e-9)
    if length >= 1.0 and share >= 1.0:
        # No tighter than it must be: the base model is right about task 7 or not.
        assert np.linalg.norm(with_task - without) > 0.9 * ROW_LENGTH


def test_all_sums_have_independent_noise_of_the_wanted_size() -> None:
    features, zero_shot, shares = drawn(30, seed=2)
    generator = np.random.default_rng(3)
    exact = noisy_sums(features, zero_shot, shares, 0.0, generator)
    noise = np.stack([noisy_sums(features, zero_shot, shares, 5.0, generator) - exact for _ in range(2000)])
    assert noise.std(0) == pytest.approx(np.full(exact.shape, 5.0 * ROW_LENGTH), rel=0.1)
    correlations = np.corrcoef(noise.reshape(2000, -1).T)
    assert np.abs(correlations - np.eye(len(correlations))).max() < 0.15


def test_much_is_learned_with_little_noise_and_nothing_with_much() -> None:
    features, zero_shot, shares = drawn(300, seed=4)
    unseen, logits, truth = drawn(300, seed=5)
    head = fit_private_choices(features, zero_shot, shares, 1.0, np.random.default_rng(6))
    accuracy = (probabilities(head, unseen, logits).argmax(1) == truth.argmax(1)).mean()
    assert accuracy > 0.9
    assert fit_private_choices(features, zero_shot, shares, 1000.0, np.random.default_rng(6)) is None


def test_a_label_that_nobody_annotated_keeps_its_zero_shot_probability() -> None:
    features, zero_shot, shares = drawn(300, seed=4)
    is_known = shares.argmax(1) != 2
    head = fit_private_choices(
        features[is_known], zero_shot[is_known], shares[is_known], 1.0, np.random.default_rng(6)
    )
    assert head is not None
    assert head.is_learned.tolist() == [True, True, False]
    before, after = probabilities(None, features, zero_shot), probabilities(head, features, zero_shot)
    assert after[:, 2] == pytest.approx(before[:, 2])


def test_without_tasks_of_two_labels_there_is_no_head() -> None:
    features, zero_shot, shares = drawn(300, seed=4)
    is_first = shares.argmax(1) == 0
    generator = np.random.default_rng(6)
    assert fit_private_choices(features[is_first], zero_shot[is_first], shares[is_first], 1.0, generator) is None
