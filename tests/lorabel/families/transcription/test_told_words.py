import pytest

from lorabel.families.transcription.told_words import Told, is_of_words
from lorabel.text_contracts import WrittenText

TOLD = Told(("tashnovi", "brelquin", "zorvek"))


@pytest.mark.parametrize(
    ("text", "is_so"),
    [
        ("Please send it to Zorvek.", False),
        ("Zorvek met Brelquin and Tashnovi.", False),
        ("", False),
        ("我昨天和 Zorvek 说了", False),
        ("Zorvek.", True),
        ("Zorvek, Zorvek, Zorvek.", True),
        ("Power colleagues, Tashnovi, Brelquin", True),
        (15 * "I spoke with Zorvek, and ", True),
    ],
)
def test_texts_that_come_from_the_list_are_known(text: str, is_so: bool) -> None:
    assert is_of_words(WrittenText(text=text, probability=0.9), TOLD) is is_so


def test_a_text_without_an_end_is_not_trusted() -> None:
    assert is_of_words(WrittenText(text="I spoke with", probability=0.9, is_complete=False), TOLD)
