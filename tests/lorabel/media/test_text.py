import base64

import pytest

from lorabel.content_formats import TextFormat
from lorabel.errors import UnreadableError
from lorabel.media.text import read_text, read_text_file

HTML = TextFormat(markup="html")
CHAT = TextFormat(markup="paragraphs", name_key="who", text_key="said")
TURNS = [{"who": "Ann", "said": "Hello."}, {"who": "Bo", "said": "Hi,\nAnn."}, {"said": "(laughter)"}]


def test_html_is_read_as_a_browser_shows_it() -> None:
    assert read_text("<p>It <b>squeals</b>\n when   hot.</p><p>Stop!</p>", HTML) == "It squeals when hot.\nStop!"


def test_a_plain_text_stays_as_it_is() -> None:
    assert read_text("  <b>5 &lt; 6\n", TextFormat()) == "  <b>5 &lt; 6\n"


def test_a_dialogue_has_a_line_for_each_turn_that_begins_with_the_speaker() -> None:
    assert read_text(TURNS, CHAT) == "Ann: Hello.\nBo: Hi,\nAnn.\n(laughter)"


def test_a_turn_without_text_is_left_out_and_a_number_is_read_as_the_editor_shows_it() -> None:
    turns = [{"who": "Ann"}, {"who": 7, "said": 3.0}, {"who": None, "said": None}, {"who": "Bo", "said": ["a", 1]}]
    assert read_text(turns, CHAT) == "7: 3\nBo: a1"


def test_encoded_texts_are_read_as_javascript_reads_them() -> None:
    encoded = base64.b64encode("größer".encode()).decode()
    assert read_text(encoded, TextFormat(encoding="base64unicode")) == "größer"
    assert read_text(encoded, TextFormat(encoding="base64")) == "größer".encode().decode("latin-1")


@pytest.mark.parametrize(
    ("value", "text_format", "reason"),
    [
        ([7, {}], TextFormat(), r"found \[7, {}\] where a text was expected"),
        (None, HTML, "found None"),
        ({"a": 1}, TextFormat(), "where a text was expected"),
        ("", TextFormat(), "no text is in ''"),
        (" \n", TextFormat(), "no text is in"),
        ("<p><img src='a.png'></p>", HTML, "no text is in"),
        ("no list", CHAT, "a list of paragraphs was expected"),
        (["no dict"], CHAT, "a list of paragraphs was expected"),
        ([], CHAT, "no text is in"),
        ([{"who": "Ann", "text": "Hello."}], CHAT, "no paragraph has a text under 'said'"),
        ([{"who": "Ann", "said": None}, {"said": True}], CHAT, "no paragraph has a text under 'said'"),
        ("%%%", TextFormat(encoding="base64unicode"), "is not base64unicode"),
        (base64.b64encode(b"\xff").decode(), TextFormat(encoding="base64unicode"), "is not base64unicode"),
    ],
)
def test_a_value_that_is_no_text_is_refused_for_good(value: object, text_format: TextFormat, reason: str) -> None:
    with pytest.raises(UnreadableError, match=reason) as caught:
        read_text(value, text_format)
    assert caught.value.is_permanent


def test_a_file_is_read_by_its_text_format() -> None:
    assert read_text_file("\ufeffgrößer".encode(), TextFormat()) == "größer"
    assert read_text_file(b"<p>shown</p>", HTML) == "shown"
    assert read_text_file(b'[{"who": "Ann", "said": "Hello."}]', CHAT) == "Ann: Hello."


@pytest.mark.parametrize(
    ("file", "text_format"),
    [
        (b"\xff\xfe\x00", TextFormat()),
        (b"{no json", CHAT),
        (b"", TextFormat()),
        (b"[" * 100_000, CHAT),
        ("größer".encode(), TextFormat(encoding="base64")),
    ],
)
def test_a_file_that_holds_no_text_is_refused_for_good(file: bytes, text_format: TextFormat) -> None:
    with pytest.raises(UnreadableError) as caught:
        read_text_file(file, text_format)
    assert caught.value.is_permanent


@pytest.mark.parametrize(
    ("file", "text_format"),
    [
        (b"hunter2\xff", TextFormat()),
        (b"hunter2", CHAT),
        (b'"hunter2"', CHAT),
        (b'["hunter2"]', CHAT),
        (b'[{"hunter2": 1}]', CHAT),
        (b'[{"who": "hunter2", "said": {}}]', CHAT),
        (b"hunter2?", TextFormat(encoding="base64unicode")),
        (b"<script>hunter2</script>", HTML),
    ],
)
def test_no_error_quotes_a_file(file: bytes, text_format: TextFormat) -> None:
    with pytest.raises(UnreadableError) as caught:
        read_text_file(file, text_format)
    assert "hunter2" not in str(caught.value)


def test_the_error_about_a_huge_value_is_short() -> None:
    for value, text_format in (
        ([{"said": "x" * 10**6}] * 3, TextFormat()),
        ("é" * 10**6, TextFormat(encoding="base64")),
    ):
        with pytest.raises(UnreadableError) as caught:
            read_text(value, text_format)
        assert len(str(caught.value)) < 200
