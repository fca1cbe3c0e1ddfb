"""Features of pairs are checked by what they must tell apart, and must not."""

import tracemalloc

import numpy as np
import pytest

from lorabel.contracts import Content, Modality
from lorabel.families.relations import pair_features as module
from lorabel.families.relations.pair_features import feature_width, pair_features
from lorabel.labeling.words import find_words
from lorabel.relation_contracts import PictureRelationsInput, RelatedRegion, RelationsInput

DIM = 8
LABELS = ("entity: Person", "entity: Thing")


def asked(text: str, *spans: tuple[str, int]) -> RelationsInput:
    """Each span is the first place of its text."""
    regions = [
        RelatedRegion(label=label, start=text.index(part), end=text.index(part) + len(part))
        for part, label in spans
    ]
    return RelationsInput(
        contents=(Content(modality=Modality.TEXT, text=text),), region_labels=LABELS, regions=tuple(regions)
    )


def features_of(question: RelationsInput, *pairs: tuple[int, int]) -> np.ndarray:
    words = len(find_words(question.contents[0].text or ""))
    return pair_features(question, np.zeros((words, DIM), np.float32), pairs)


def boxes(*corners: tuple[float, float, float, float]) -> PictureRelationsInput:
    regions = tuple(RelatedRegion(label=0, corners=each) for each in corners)
    picture = Content(modality=Modality.TEXT, text="in place of a picture")
    return PictureRelationsInput(contents=(picture,) * len(corners), region_labels=("box: Cup",), regions=regions)


def test_the_width_is_as_announced() -> None:
    question = asked("Ada owns a boat", ("Ada", 0), ("boat", 1))
    assert features_of(question, (0, 1), (1, 0)).shape == (2, feature_width(question, DIM))
    assert features_of(question).shape == (0, feature_width(question, DIM))
    picture = boxes((0.1, 0.1, 0.2, 0.2), (0.5, 0.1, 0.6, 0.2))
    rows = np.zeros((2, DIM), np.float32)
    assert pair_features(picture, rows, [(0, 1), (1, 0)]).shape == (2, feature_width(picture, DIM))


def test_names_make_no_difference_and_what_stands_between_does() -> None:
    one, other, third = (
        features_of(asked(text, (name, 0), (thing, 1)), (0, 1))
        for text, name, thing in (
            ("Ada owns a boat", "Ada", "boat"),
            ("Grace Hopper owns a red car", "Grace Hopper", "red car"),
            ("Ada saw a boat", "Ada", "boat"),
        )
    )
    np.testing.assert_array_equal(one, other)
    assert np.abs(one - third).max() > 0.1


def test_the_direction_of_a_pair_makes_a_difference() -> None:
    there, back = features_of(asked("Ada knows Bob", ("Ada", 0), ("Bob", 0)), (0, 1), (1, 0))
    assert np.abs(there - back).max() > 0.5


def test_a_region_that_is_nearer_makes_a_difference() -> None:
    text = "Ada and Bob own a boat"
    alone = features_of(asked(text, ("Ada", 0), ("boat", 1)), (0, 1))
    beside = features_of(asked(text, ("Ada", 0), ("boat", 1), ("Bob", 0)), (0, 1))
    assert np.abs(alone - beside).max() > 0.5


def test_the_features_of_regions_and_words_between_them_count() -> None:
    question = asked("Ada owns a boat", ("Ada", 0), ("boat", 1))
    rows = np.zeros((4, DIM), np.float32)
    base = pair_features(question, rows, [(0, 1)])
    for word in range(4):
        changed = rows.copy()
        changed[word, 0] = 1
        assert not np.array_equal(pair_features(question, changed, [(0, 1)]), base), word


def test_a_span_outside_of_the_words_that_were_read_has_features() -> None:
    question = asked("Ada owns a boat", ("Ada", 0), ("boat", 1))
    assert np.isfinite(pair_features(question, np.zeros((1, DIM), np.float32), [(0, 1), (1, 0)])).all()


@pytest.mark.parametrize(
    ("text", "spans"),
    [
        ("Ada in London  \n ", ((0, 3), (14, 16))),
        ("  Ada in London", ((0, 1), (9, 15))),
        (" Ada ", ((0, 1), (4, 5))),
        ("  ", ((0, 1), (1, 2))),
    ],
)
def test_a_span_without_a_word_has_features_wherever_it_is(text: str, spans: tuple[tuple[int, int], ...]) -> None:
    regions = tuple(RelatedRegion(label=0, start=start, end=end) for start, end in spans)
    question = asked(text).model_copy(update={"regions": regions})
    assert np.isfinite(features_of(question, (0, 1), (1, 0))).all()


def test_a_gap_that_ends_after_the_words_that_were_read_ends_with_the_text() -> None:
    question = asked("Ada saw it. Bob owns a boat", ("Ada", 0), ("boat", 1))
    assert np.isfinite(pair_features(question, np.zeros((3, DIM), np.float32), [(0, 1), (1, 0)])).all()


@pytest.mark.parametrize("moved", [(0.3, 0.0), (0.0, 0.3)])
def test_pairs_of_boxes_are_alike_wherever_they_are_in_the_picture(moved: tuple[float, float]) -> None:
    first, second = (0.1, 0.1, 0.2, 0.2), (0.3, 0.12, 0.4, 0.22)
    there = boxes(first, second)
    elsewhere = boxes(
        *((a + moved[0], b + moved[1], c + moved[0], d + moved[1]) for a, b, c, d in (first, second))
    )
    rows = np.zeros((2, DIM), np.float32)
    here, away = (pair_features(question, rows, [(0, 1)]) for question in (there, elsewhere))
    np.testing.assert_allclose(here, away, atol=1e-6)
    back = pair_features(there, rows, [(1, 0)])
    assert np.abs(here - back).max() > 0.5, "left of is not right of"


def test_the_texts_of_lines_count() -> None:
    question = boxes((0.1, 0.1, 0.2, 0.2), (0.3, 0.1, 0.4, 0.2))
    total = question.regions[0].model_copy(update={"text": "Total"})
    read = question.model_copy(update={"regions": (total, question.regions[1])})
    rows = np.zeros((2, DIM), np.float32)
    assert not np.array_equal(pair_features(question, rows, [(0, 1)]), pair_features(read, rows, [(0, 1)]))


def scattered(count: int) -> list[RelatedRegion]:
    """Boxes of one size on a grid, so that many are equally far away; some lie at the same place."""
    places = np.random.default_rng(count).integers(0, 6, (count, 3)).tolist()
    return [
        RelatedRegion(label=label % 3, corners=(0.15 * x, 0.15 * y, 0.15 * x + 0.1, 0.15 * y + 0.1))
        for x, y, label in places
    ]


def test_ranks_and_next_regions_are_those_that_a_search_through_all_regions_finds() -> None:
    regions, count = scattered(14), 14
    corners = np.array([region.corners for region in regions])
    labels, middle = [region.label for region in regions], (corners[:, :2] + corners[:, 2:]) / 2
    ranks, ways = module._ranks(regions), module._nearest_ways(regions, corners)
    half = (corners[:, 2:] - corners[:, :2]) / 2
    for first in range(count):
        away = [np.inf if k == first else np.linalg.norm(middle[k] - middle[first]) for k in range(count)]
        for second in range(count):
            rivals = [other for other in range(count) if labels[other] == labels[second]]
            assert ranks[first, second] == sum(away[other] < away[second] for other in rivals)
            for way, (axis, sign) in enumerate(((0, 1), (0, -1), (1, 1), (1, -1))):
                offsets = [sign * (middle[k] - middle[first])[axis] for k in range(count)]
                ahead = {k: offset for k, offset in enumerate(offsets) if offset > 0}
                across = np.abs(middle - middle[first])[:, 1 - axis] < (half + half[first])[:, 1 - axis]
                in_line = {k: offset for k, offset in ahead.items() if across[k] and k in rivals}
                for found, expected in ((ways[way], in_line), (ways[4 + way], ahead)):
                    is_next = second in expected and expected[second] == min(expected.values())
                    assert found[first, second] == is_next


def test_memory_grows_with_the_square_of_the_regions() -> None:
    regions = tuple(scattered(400))
    picture = boxes((0.1, 0.1, 0.2, 0.2)).model_copy(update={"regions": regions, "region_labels": ("a", "b", "c")})
    tracemalloc.start()
    pair_features(picture, np.zeros((400, DIM), np.float32), [(0, 1)])
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 200 * 400**2 < 400**3
