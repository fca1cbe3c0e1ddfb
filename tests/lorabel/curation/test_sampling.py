import numpy as np
import pytest

from lorabel.curation.sampling import Vectors, ascending, core_set, shuffled


def directions(*degrees: float) -> Vectors:
    radians = np.deg2rad(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


def test_the_lowest_value_comes_first_and_equal_ones_as_they_come() -> None:
    assert ascending([0.7, 0.2, 0.7, 0.4]) == [1, 3, 0, 2]


def test_chance_is_the_seeds() -> None:
    assert sorted(shuffled(50, 1)) == list(range(50))
    assert shuffled(50, 1) == shuffled(50, 1) != shuffled(50, 2)


def test_the_farthest_from_what_is_labeled_comes_first_then_the_farthest_from_both() -> None:
    assert core_set(directions(5, 170, 90, 10), directions(0)) == [1, 2, 3, 0]


def test_without_labeled_ones_the_middle_begins() -> None:
    assert core_set(directions(0, 40, 45, 100), directions()) == [2, 3, 0, 1]


def test_copies_come_last() -> None:
    order = core_set(directions(10, 10, 10, 80, 80, 150), directions(0))
    assert set(order[:3]) & {0, 1, 2} and {3, 4} & set(order[:3]) and 5 in order[:3]


def test_each_cluster_has_its_turn_before_any_has_a_second_one() -> None:
    dice = np.random.default_rng(4)
    middles = np.eye(8, dtype=np.float32)
    vectors = np.repeat(middles, 20, axis=0) + dice.normal(0, 0.02, (160, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    assert sorted(place // 20 for place in core_set(vectors, middles[:0])[:8]) == list(range(8))


def test_after_so_many_picks_the_rest_goes_by_its_distance() -> None:
    vectors, labeled = directions(30, 60, 90, 10, 20), directions(0)
    order = core_set(vectors, labeled, max_picks=1)
    assert order[0] == 2
    nearest = np.max(vectors @ np.concatenate([labeled, vectors[2:3]]).T, axis=1)
    assert [nearest[place] for place in order[1:]] == sorted(nearest[place] for place in order[1:])


@pytest.mark.parametrize("labeled", [directions(), directions(0)])
def test_nothing_is_ordered_as_nothing(labeled: Vectors) -> None:
    assert core_set(directions(), labeled) == []
