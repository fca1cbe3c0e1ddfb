from functools import cache

import pytest

from lorabel.evaluation.text_metrics import edit_distance
from lorabel.evaluation.transcript_metrics import transcripts, word_error_rate


def least_edits(first: tuple[str, ...], second: tuple[str, ...]) -> int:
    """The definition itself, tried out."""

    @cache
    def least(i: int, j: int) -> int:
        if not i or not j:
            return i + j
        replaced = least(i - 1, j - 1) + (first[i - 1] != second[j - 1])
        return min(replaced, least(i - 1, j) + 1, least(i, j - 1) + 1)

    return least(len(first), len(second))


@pytest.mark.parametrize(
    ("right", "written"),
    [
        ("a b c", "a x c d"),
        ("a b c", ""),
        ("a", "b c d e"),
        ("a b a b", "b a b a"),
        ("the cat sat", "the cat sat"),
    ],
)
def test_the_edit_distance_of_words_is_the_least_number_of_changes(right: str, written: str) -> None:
    words = right.split(), written.split()
    assert edit_distance(*words) == least_edits(tuple(words[0]), tuple(words[1]))


def test_figures_are_those_of_all_sounds_together() -> None:
    values = transcripts(
        ["one two three four", "five six"], ["One, two tree four.", "nine ten eleven twelve"]
    ).values
    assert values["word_error_rate"] == pytest.approx((1 + 4) / 6)
    # The second text has more errors than the right one has words.
    assert values["word_accuracy"] == pytest.approx(1 - (1 + 2) / 6)
    assert values["character_error_rate"] == pytest.approx(
        (1 + edit_distance("fivesix", "nineteneleventwelve")) / 22
    )
    assert values["exact_match"] == 0.0 and values["answered"] == values["tasks"] == 2


def test_a_wrong_text_is_no_worse_than_none_and_a_right_one_is_perfect() -> None:
    wrong, none, right = (
        transcripts(["one two"], [text]).values["word_accuracy"] for text in ("a b c d e", "", "One two!")
    )
    assert wrong == none == 0.0 and right == 1.0


def test_the_nearest_of_several_annotators_counts() -> None:
    values = transcripts(["colour of it"], ["the color"], [("the color",)]).values
    assert values["word_error_rate"] == 0.0


def test_each_character_is_a_word_where_words_have_no_spaces() -> None:
    assert word_error_rate("今日は天気", "今日の天気") == pytest.approx(1 / 5)
