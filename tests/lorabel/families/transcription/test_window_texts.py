import pytest

from lorabel.families.transcription.window_texts import divided, joined


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["One two.", "Three."], "One two. Three."),
        (["", " One ", "", "two"], "One two"),
        (["今日は", "天気"], "今日は天気"),
        (["今日は", "OK", "天気"], "今日は OK 天気"),
        ([], ""),
    ],
)
def test_texts_are_joined_with_spaces_in_scripts_that_have_them(texts: list[str], expected: str) -> None:
    assert joined(texts) == expected


@pytest.mark.parametrize(
    ("transcript", "heard", "parts"),
    [
        (
            "we met Zorvek at noon and left",
            ["We met soar back.", "At noon, and left."],
            ["we met Zorvek", "at noon and left"],
        ),
        ("a b c d", ["a b", "c d"], ["a b", "c d"]),
        # A word that was not heard is with the one before it.
        ("a b new c d", ["a b", "c d"], ["a b new", "c d"]),
        # What was heard and is not right is left out.
        ("a d", ["a x x x", "y d"], ["a", "d"]),
        ("the end", ["", "the end", ""], ["", "the end", ""]),
        ("今日は天気", ["今日は", "天気"], ["今日は", "天気"]),
        ("", ["a", "b"], ["", ""]),
    ],
)
def test_each_word_goes_where_it_was_heard(transcript: str, heard: list[str], parts: list[str]) -> None:
    assert divided(transcript, heard, [1.0] * len(heard)) == parts


def test_words_are_divided_by_length_where_nothing_was_heard() -> None:
    assert divided("a b c d", ["", "", ""], [2.0, 1.0, 1.0]) == ["a b", "c", "d"]
