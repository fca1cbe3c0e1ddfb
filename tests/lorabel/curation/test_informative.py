import numpy as np
import pytest
from numpy.typing import NDArray

from lorabel.curation import informative
from lorabel.curation.informative import typical, typical_then_informative
from lorabel.curation.sampling import Vectors

NOTHING = np.zeros((0, 8), dtype=np.float32)


def clusters(*sizes: int, spread: float = 0.02) -> tuple[Vectors, NDArray[np.intp]]:
    """Vectors of length 1 around the first unit vectors, and the number of each vector's cluster."""
    generator = np.random.default_rng(4)
    numbers = np.repeat(np.arange(len(sizes)), sizes)
    vectors = np.eye(8)[numbers] + generator.normal(0, spread, (len(numbers), 8))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), numbers


def standardised(vectors: Vectors, annotated: Vectors) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    every = np.concatenate([vectors, annotated]).astype(np.float64)
    every -= every.mean(axis=0)
    every = np.c_[every / np.sqrt((every**2).sum(axis=1).mean()), np.ones(len(every))]
    return every[: len(vectors)], every[len(vectors) :]


def weighted_variance(tasks: NDArray[np.float64], known: NDArray[np.float64], weights: Vectors) -> float:
    """The ridge regression's variance at the tasks, by brute force."""
    inverse = np.linalg.inv(informative.RIDGE * np.eye(tasks.shape[1]) + known.T @ known)
    return float(np.mean(weights * ((tasks @ inverse) * tasks).sum(axis=1)))


def test_the_first_tasks_are_of_different_groups_the_largest_first() -> None:
    vectors, numbers = clusters(10, 30, 20)
    assert numbers[typical(vectors, NOTHING, 3, seed=0)].tolist() == [1, 2, 0]


def test_groups_without_an_annotation_come_before_annotated_ones() -> None:
    vectors, numbers = clusters(10, 30, 20)
    annotated = vectors[[12]]
    chosen = typical(vectors, annotated, 2, seed=0)
    assert set(numbers[chosen].tolist()) == {0, 2}


def test_a_typical_task_lies_in_the_middle_of_its_group_and_is_no_outlier() -> None:
    vectors, _ = clusters(40, spread=0.1)
    (chosen,) = typical(vectors, NOTHING, 1, seed=0)
    similarities = (vectors @ vectors.T).mean(axis=1)
    assert similarities[chosen] > np.quantile(similarities, 0.8)


def test_each_pick_reduces_the_weighted_variance_most_as_brute_force_says() -> None:
    vectors, _ = clusters(6, 6, 6, spread=0.3)
    annotated, margins = vectors[:3], np.linspace(0, 1, 15, dtype=np.float32)
    open_vectors = vectors[3:]
    order = informative.informative(open_vectors, annotated, margins, np.arange(15))
    tasks, known = standardised(open_vectors, annotated)
    uncertainty = 1 - margins + informative.LEAST_UNCERTAINTY
    left = list(range(15))
    for pick in order.tolist():
        before = weighted_variance(tasks, known, uncertainty)
        gains = [
            (before - weighted_variance(tasks, np.vstack([known, tasks[index]]), uncertainty))
            * uncertainty[index] ** informative.SHARPNESS
            for index in left
        ]
        assert gains[left.index(pick)] == pytest.approx(max(gains), rel=1e-3)
        left.remove(pick)
        known = np.vstack([known, tasks[pick]])


def test_a_near_duplicate_does_not_follow_the_task_that_it_is_like() -> None:
    vectors, numbers = clusters(20, 20, 20, 20)
    order = informative.informative(vectors, NOTHING, np.zeros(80, dtype=np.float32), np.arange(80))
    assert set(numbers[order[:4]].tolist()) == {0, 1, 2, 3}


def test_a_task_of_which_the_model_is_sure_waits() -> None:
    vectors, numbers = clusters(20, 20)
    margins = np.where(numbers == 0, 0.99, 0.05).astype(np.float32)
    order = informative.informative(vectors, vectors[[0, 20]], margins, np.arange(40))
    assert (numbers[order[:5]] == 1).all()


@pytest.mark.parametrize(("open_count", "annotated_count"), [(0, 0), (1, 0), (1, 3), (3, 0), (60, 0), (60, 20)])
def test_every_task_is_in_the_order_once(open_count: int, annotated_count: int) -> None:
    vectors, _ = clusters(40, 40)
    generator = np.random.default_rng(1)
    margins = generator.random(open_count).astype(np.float32)
    order = typical_then_informative(vectors[:open_count], vectors[60 : 60 + annotated_count], margins, 2, 0)
    assert sorted(order) == list(range(open_count))


def test_copies_of_one_task_are_all_in_the_order() -> None:
    vectors = np.repeat(np.eye(8, dtype=np.float32)[:1], 30, axis=0)
    margins = np.full(30, 0.5, dtype=np.float32)
    assert sorted(typical_then_informative(vectors, NOTHING, margins, 4, 0)) == list(range(30))


def test_of_more_tasks_than_the_sample_every_one_is_in_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(informative, "SAMPLE", 10)
    vectors, _ = clusters(30, 30)
    order = typical_then_informative(vectors, vectors[:5], np.zeros(60, dtype=np.float32), 2, 0)
    assert sorted(order) == list(range(60))


def test_probabilities_count_only_when_two_tasks_for_each_label_are_annotated() -> None:
    vectors, numbers = clusters(20, 40)
    sure_of_the_large_group = np.where(numbers == 1, 0.99, 0.05).astype(np.float32)
    first = typical_then_informative(vectors, vectors[[0]], sure_of_the_large_group, 1, 0)[0]
    later = typical_then_informative(vectors, vectors[[0, 1, 20, 21]], sure_of_the_large_group, 2, 0)[0]
    assert (numbers[first], numbers[later]) == (1, 0)
