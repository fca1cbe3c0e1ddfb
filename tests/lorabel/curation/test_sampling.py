import numpy as np
import pytest

from lorabel.curation.sampling import Vectors, ascending, core_set, shuffled


def directions(*degrees: float) -> Vectors:
    radians = np.deg2rad(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


def test_the_lowest_value_comes_first_and_equal_values_keep_their_order() -> None:
    assert ascending([0.7, 0.2, 0.7, 0.4]) == [1, 3, 0, 2]


def test_a_random_order_depends_on_the_seed_alone() -> None:
    assert sorted(shuffled(50, 1)) == list(range(50))
    assert shuffled(50, 1) == shuffled(50, 1) != shuffled(50, 2)


def test_core_set_picks_the_task_farthest_from_all_labeled_and_picked_tasks() -> None:
    assert core_set(directions(5, 170, 90, 10), directions(0)) == [1, 2, 3, 0]


def test_core_set_begins_with_the_task_nearest_to_the_mean_if_nothing_is_labeled() -> None:
    assert core_set(directions(0, 40, 45, 100), directions()) == [2, 3, 0, 1]


def test_core_set_puts_copies_last() -> None:
    order = core_set(directions(10, 10, 10, 80, 80, 150), directions(0))
    assert set(order[:3]) & {0, 1, 2} and {3, 4} & set(order[:3]) and 5 in order[:3]


def test_core_set_picks_a_task_of_each_cluster_before_a_second_of_any() -> None:
    generator = np.random.default_rng(4)
    centres = np.eye(8, dtype=np.float32)
    vectors = np.repeat(centres, 20, axis=0) + generator.normal(0, 0.02, (160, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    assert sorted(index // 20 for index in core_set(vectors, centres[:0])[:8]) == list(range(8))


def test_core_set_orders_the_rest_by_distance_after_the_maximum_of_picks() -> None:
    vectors, labeled = directions(30, 60, 90, 10, 20), directions(0)
    order = core_set(vectors, labeled, max_picks=1)
    assert order[0] == 2
    nearest = np.max(vectors @ np.concatenate([labeled, vectors[2:3]]).T, axis=1)
    assert [nearest[index] for index in order[1:]] == sorted(nearest[index] for index in order[1:])


@pytest.mark.parametrize("labeled", [directions(), directions(0)])
def test_core_set_of_no_tasks_is_empty(labeled: Vectors) -> None:
    assert core_set(directions(), labeled) == []
