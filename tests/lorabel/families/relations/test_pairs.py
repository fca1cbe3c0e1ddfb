from itertools import permutations

import numpy as np
import pytest

from lorabel.contracts import Content, Modality
from lorabel.families.relations.pairs import found_relations, nearest_pairs
from lorabel.relation_contracts import RelatedRegion, RelationsInput


def regions(*starts: int) -> list[RelatedRegion]:
    return [RelatedRegion(label=0, start=start, end=start + 2) for start in starts]


def question(*, is_single: bool) -> RelationsInput:
    text = Content(modality=Modality.TEXT, text="one two")
    return RelationsInput(
        contents=(text,), labels=(("a",), ("b",)), region_labels=("x",), regions=regions(0, 4), is_single=is_single
    )


def test_every_pair_is_asked_about_in_both_directions() -> None:
    assert nearest_pairs(regions(0, 9, 20), 100) == [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)]


def test_of_many_pairs_the_nearest_are_asked_about() -> None:
    assert nearest_pairs(regions(0, 9, 20), 4) == [(0, 1), (1, 0), (1, 2), (2, 1)]


@pytest.mark.parametrize("most", [1, 7, 40, 90, 200])
def test_the_nearest_pairs_are_those_that_a_search_through_all_pairs_finds(most: int) -> None:
    """Of pairs at one distance, those of the first regions, and of a pair first the way forward."""
    starts = np.random.default_rng(most).integers(0, 12, 10).tolist()
    every = sorted(
        permutations(range(10), 2),
        key=lambda pair: (abs(starts[pair[0]] - starts[pair[1]]), sorted(pair), pair),
    )
    assert nearest_pairs(regions(*starts), most) == sorted(every[:most])


def test_fewer_than_two_regions_are_no_pair() -> None:
    assert nearest_pairs([], 10) == nearest_pairs(regions(3), 10) == []


def test_of_single_labels_the_likeliest_is_found_and_of_several_each_that_is_likely() -> None:
    probabilities = np.array([[0.6, 0.9], [0.1, 0.2]], np.float32)
    pairs = [(0, 1), (1, 0)]
    single = found_relations(question(is_single=True), pairs, probabilities)
    assert [relation.link for relation in single.relations] == [(0, 1, 1)]
    several = found_relations(question(is_single=False), pairs, probabilities)
    assert [relation.link for relation in several.relations] == [(0, 1, 0), (0, 1, 1)]


def test_an_answer_without_relations_says_how_sure_that_is() -> None:
    found = found_relations(question(is_single=True), [(0, 1)], np.array([[0.25, 0.125]], np.float32))
    assert found.relations == () and found.no_relation_probability == 0.75
