import pytest

from lorabel.labeling.words import find_words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Ada Lovelace's idea.", ["Ada", "Lovelace", "'", "s", "idea", "."]),
        ("Zoe\u0301 und Łódź", ["Zoe\u0301", "und", "Łódź"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("in 東京 today", ["in", "東", "京", "today"]),
        ("ok 😀👍🏽!", ["ok", "😀", "👍", "🏽", "!"]),
        ("snake_case 3.5", ["snake_case", "3", ".", "5"]),
        (" \n\t ", []),
    ],
)
def test_words_and_punctuation_marks_are_found(text: str, expected: list[str]) -> None:
    assert [text[start:end] for start, end in find_words(text)] == expected
