import base64

import pytest

from lorabel.contracts import Layout
from lorabel.errors import UnreadableError
from lorabel.media.text import html_text, read_text, read_text_file

HTML = Layout(markup="html")
CHAT = Layout(markup="paragraphs", name_key="who", text_key="said")
TURNS = [{"who": "Ann", "said": "Hello."}, {"who": "Bo", "said": "Hi,\nAnn."}, {"said": "(laughter)"}]


@pytest.mark.parametrize(
    ("html", "shown"),
    [
        ("<p>It <b>squeals</b>\n when   hot.</p><p>Stop!</p>", "It squeals when hot.\nStop!"),
        ("un<b>do</b> it", "undo it"),
        ("one<br>two<br/>three", "one\ntwo\nthree"),
        ("<ul><li>oil</li><li>water</li></ul>", "oil\nwater"),
        ("<table><tr><td>a</td><td>b</td></tr></table>", "a\nb"),
        ("5 &lt; 6 &amp; caf&eacute;&#33;", "5 < 6 & café!"),
        ("<style>p {color: red}</style><script>alert('<p>no</p>')</script>seen<!-- unseen -->", "seen"),
        ("<html><head><title>no</title></head><body>yes</body></html>", "yes"),
        ("<html><head><title>no</title><body><p>The head's end may be left out", "The head's end may be left out"),
        ("<p>not <i>closed", "not closed"),
        ("</script>stray", "stray"),
        ("no markup", "no markup"),
    ],
)
def test_html_is_read_as_it_is_shown(html: str, shown: str) -> None:
    assert html_text(html) == shown


def test_a_plain_text_stays_as_it_is() -> None:
    assert read_text("  <b>5 &lt; 6\n", Layout()) == "  <b>5 &lt; 6\n"


def test_a_dialogue_is_its_turns_in_lines_with_the_names_of_who_spoke() -> None:
    assert read_text(TURNS, CHAT) == "Ann: Hello.\nBo: Hi,\nAnn.\n(laughter)"


def test_encoded_texts_are_read_as_javascript_reads_them() -> None:
    encoded = base64.b64encode("größer".encode()).decode()
    assert read_text(encoded, Layout(encoding="base64unicode")) == "größer"
    assert read_text(encoded, Layout(encoding="base64")) == "größer".encode().decode("latin-1")


@pytest.mark.parametrize(
    ("value", "layout", "said"),
    [
        (7, Layout(), "found 7 where a text was expected"),
        (None, HTML, "found None"),
        ({"a": 1}, Layout(), "where a text was expected"),
        ("", Layout(), "no text is in ''"),
        (" \n", Layout(), "no text is in"),
        ("<p><img src='a.png'></p>", HTML, "no text is in"),
        ("no list", CHAT, "a list of paragraphs was expected"),
        (["no dict"], CHAT, "a list of paragraphs was expected"),
        ([], CHAT, "no text is in"),
        ([{"who": "Ann", "text": "Hello."}], CHAT, "has no text under 'said'"),
        ("%%%", Layout(encoding="base64unicode"), "is not base64unicode"),
        (base64.b64encode(b"\xff").decode(), Layout(encoding="base64unicode"), "is not base64unicode"),
    ],
)
def test_what_is_no_text_is_refused_for_good(value: object, layout: Layout, said: str) -> None:
    with pytest.raises(UnreadableError, match=said) as caught:
        read_text(value, layout)
    assert caught.value.is_permanent


def test_files_are_read_by_their_layout() -> None:
    assert read_text_file("\ufeffgrößer".encode(), Layout()) == "größer"
    assert read_text_file(b"<p>shown</p>", HTML) == "shown"
    assert read_text_file(b'[{"who": "Ann", "said": "Hello."}]', CHAT) == "Ann: Hello."


@pytest.mark.parametrize(("file", "layout"), [(b"\xff\xfe\x00", Layout()), (b"{no json", CHAT), (b"", Layout())])
def test_a_file_that_holds_no_text_is_refused_for_good(file: bytes, layout: Layout) -> None:
    with pytest.raises(UnreadableError) as caught:
        read_text_file(file, layout)
    assert caught.value.is_permanent
