"""Which words and places are marked, on weights that the tests choose."""

import pytest

from lorabel.contracts import Modality
from lorabel.explanation_contracts import ContentWeights, Fit, WordWeight
from lorabel.explanations.explanation import ExplainedContent
from lorabel.explanations.marks import MOST_PLACES, MOST_WORDS, places_of, strongest_words, words_of

TEXT = "one two three four five six seven"


def text(*weights: float) -> ExplainedContent:
    """TEXT with the weights of its words."""
    words, start = [], 0
    for word, weight in zip(TEXT.split(), weights, strict=True):
        start = TEXT.index(word, start)
        words.append(WordWeight(start=start, end=start + len(word), weight=weight))
    return ExplainedContent(Modality.TEXT, None, TEXT, None, ContentWeights(text=TEXT, words=tuple(words)))


def picture(heat: list[list[float]], fit: Fit = Fit.STRETCHED) -> ExplainedContent:
    weights = ContentWeights(heat=tuple(map(tuple, heat)), fit=fit, size=(400, 200))
    return ExplainedContent(Modality.IMAGE, "a.png", None, None, weights)


def test_the_strongest_words_come_first_and_weak_ones_not_at_all() -> None:
    content = text(0.1, 2.0, 0.0, -1.0, 0.7, 0.5, 0.0)
    assert [word.weight for word in strongest_words(content.weights)] == [2.0, -1.0, 0.7]
    assert [word.weight for word in strongest_words(content.weights, has_against=False)] == [2.0, 0.7]
    assert len(strongest_words(text(*[1.0] * 7).weights)) == MOST_WORDS
    assert strongest_words(text(*[0.0] * 7).weights) == []


def test_a_word_is_marked_if_one_of_the_control_tags_is_carried_by_it() -> None:
    contents = [text(2.0, 0.1, 0, 0, 0, 0, 0), text(0.1, 0.1, -1.0, 0, 0, 0, 0)]
    marked = [(word.text, word.is_for) for word in words_of(contents, has_against=True)]
    assert marked == [("one", True), ("two", None), ("three", False), *((each, None) for each in TEXT.split()[3:])]
    assert [word.is_for for word in words_of(contents, has_against=False)][:3] == [True, None, None]
    assert words_of([], has_against=True) == []


def test_cells_that_lie_beside_each_other_are_one_place_and_the_strongest_place_is_first() -> None:
    heat = [[1.0, 0.9, 0.0, 0.0], [0.0, 0.0, 0.0, 0.8], [0.1, 0.0, 0.0, 0.0], [-0.9, -0.9, -0.9, 0.0]]
    places = places_of([picture(heat)], (400, 200), has_against=True)
    assert places == [
        ((0.0, 0.75, 0.75, 1.0), False),
        ((0.0, 0.0, 0.5, 0.25), True),
        ((0.75, 0.25, 1.0, 0.5), True),
    ]
    assert places_of([picture(heat)], (400, 200), has_against=False) == places[1:]


def test_few_places_are_marked_and_none_where_nothing_carries_the_answer() -> None:
    chessboard = [[float((row + column) % 2) for column in range(4)] for row in range(4)]
    assert len(places_of([picture(chessboard)], (400, 200), has_against=True)) == MOST_PLACES
    assert places_of([picture([[0.0, 0.0], [0.0, 0.0]])], (400, 200), has_against=True) == []


@pytest.mark.parametrize(
    ("fit", "expected"),
    [
        # Of a picture of 400 x 200, the upper right cell of two by two.
        (Fit.STRETCHED, (0.5, 0.0, 1.0, 0.5)),
        (Fit.MIDDLE, (0.5, 0.0, 0.75, 0.5)),
        # The square around it is 400 x 400, and its upper half has 100 pixels of the picture.
        (Fit.PADDED, (0.5, 0.0, 1.0, 0.5)),
    ],
)
def test_places_lie_where_the_model_sees_them(fit: Fit, expected: tuple[float, ...]) -> None:
    ((corners, is_for),) = places_of([picture([[0.0, 1.0], [0.0, 0.0]], fit)], (400, 200), has_against=True)
    assert corners == pytest.approx(expected) and is_for


def test_a_place_in_the_edge_that_the_model_adds_is_left_out() -> None:
    heat = [[0.0] * 4 for _ in range(4)]
    heat[0][1], heat[2][2] = 1.0, 0.6  # the first row of a padded picture of 400 x 200 is above it
    ((corners, _),) = places_of([picture(heat, Fit.PADDED)], (400, 200), has_against=True)
    assert corners == pytest.approx((0.5, 0.5, 0.75, 1.0))
