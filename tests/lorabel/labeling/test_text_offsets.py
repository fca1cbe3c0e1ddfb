"""The places are those that Label Studio 1.23.2 wrote when the words were marked in Chromium."""

import random
from typing import Any

import pytest

from lorabel.errors import MissingTargetError, UnreadableError
from lorabel.labeling.label_config import ObjectTag
from lorabel.labeling.text_offsets import code_points, flat_text, utf16_length

ZOE = "Zoe\u0301"
TEXT = f"Hi 😀 {ZOE} went\nto Łódź & <b>"
FRAMED = f"<div>\n <p>Hi 😀 <b>{ZOE}</b> went</p>\n<!-- c --><p>to<br>Łódź &amp; <i>😀x</i> Łódź</p></div>"
INLINE = f"<p>Hi 😀 <b>{ZOE}</b> went<p>to<br>Łódź &amp; <i>😀x</i> Łódź<table><tr><td>Łódź</td></tr></table>"
TALK = [{"author": "A", "text": f"Hi 😀 {ZOE} went"}, {"author": "B", "text": "to\nŁódź 😀 Łódź"}]


def tag(kind: str, **attributes: str) -> ObjectTag:
    return ObjectTag("text", kind, "text", attributes)


def place(start: str, begins: int, end: str, ends: int, *counted: int) -> dict[str, Any]:
    value: dict[str, Any] = {"start": start, "startOffset": begins, "end": end, "endOffset": ends}
    if counted:
        value["globalOffsets"] = {"start": counted[0], "end": counted[1]}
    return value


MARKED = [
    (tag("Text"), TEXT, {"start": 5, "end": 9}, ZOE),
    (tag("Text"), TEXT, {"start": 10, "end": 17}, "went\nto"),
    (tag("Text"), TEXT, {"start": 3, "end": 9}, f"😀 {ZOE}"),
    (tag("Text"), TEXT, {"start": 18, "end": 22}, "Łódź"),
    (
        tag("HyperText"),
        FRAMED,
        place("/div[1]/p[1]/b[1]/text()[1]", 0, "/div[1]/p[1]/b[1]/text()[1]", 4, 7, 11),
        ZOE,
    ),
    (
        tag("HyperText"),
        FRAMED,
        place("/div[1]/p[1]/text()[2]", 1, "/div[1]/p[2]/text()[1]", 2, 12, 19),
        "went\n\nto",
    ),
    (
        tag("HyperText"),
        FRAMED,
        place("/div[1]/p[1]/text()[1]", 3, "/div[1]/p[1]/b[1]/text()[1]", 4, 5, 11),
        f"😀 {ZOE}",
    ),
    (
        tag("HyperText"),
        FRAMED,
        place("/div[1]/p[2]/text()[3]", 1, "/div[1]/p[2]/text()[3]", 5, 30, 34),
        "Łódź",
    ),
    (
        tag("HyperText", inline="true"),
        INLINE,
        place("/p[1]/text()[1]", 3, "/p[1]/b[1]/text()[1]", 4, 3, 9),
        f"😀 {ZOE}",
    ),
    (
        tag("HyperText", inline="true"),
        INLINE,
        place(
            "/table[1]/tbody[1]/tr[1]/td[1]/text()[1]", 0, "/table[1]/tbody[1]/tr[1]/td[1]/text()[1]", 4, 31, 35
        ),
        "Łódź",
    ),
    (tag("Paragraphs"), TALK, place("0", 6, "0", 10), ZOE),
    (tag("Paragraphs"), TALK, place("0", 11, "1", 2), "went\nto"),
    (tag("Paragraphs"), TALK, place("0", 3, "0", 10), f"😀 {ZOE}"),
    (tag("Paragraphs"), TALK, place("1", 11, "1", 15), "Łódź"),
]


@pytest.mark.parametrize(("kind", "data", "value", "text"), MARKED)
def test_a_place_that_the_editor_wrote_is_found_in_the_flat_text_and_written_again(
    kind: ObjectTag, data: Any, value: dict[str, Any], text: str
) -> None:
    flat = flat_text(kind, {"text": data})
    start, end = flat.span(value)
    assert flat.text[start:end] == text
    again = flat.value(start, end)
    again.pop("text")
    assert again == value


@pytest.mark.parametrize(("kind", "data", "value", "text"), MARKED)
def test_every_span_of_letters_comes_back_the_same(
    kind: ObjectTag, data: Any, value: dict[str, Any], text: str
) -> None:
    flat = flat_text(kind, {"text": data})
    letters = [i for i, char in enumerate(flat.text) if not char.isspace()]
    dice = random.Random(0)
    for _ in range(200):
        start, last = sorted(dice.choices(letters, k=2))
        assert flat.span(flat.value(start, last + 1)) == (start, last + 1)


def test_pages_of_any_make_come_back_the_same() -> None:
    dice = random.Random(1)
    leaves = [
        "Ada ",
        "😀",
        " e\u0301 ",
        "<br>",
        "<b>Bob</b>",
        "<p>one<p>two",
        "<ul><li>x<li>y</ul>",
        "<!--c-->",
        "&lt;",
        "\n",
    ]
    for _ in range(50):
        html = "".join(dice.choices(leaves, k=12)) + "end"
        flat = flat_text(tag("HyperText"), {"text": html})
        letters = [i for i, char in enumerate(flat.text) if not char.isspace()]
        start, last = sorted(dice.choices(letters, k=2))
        value = flat.value(start, last + 1)
        assert flat.span(value) == (start, last + 1)
        lost = {**value, "start": "/nav[9]/text()[1]", "end": "/nav[9]/text()[1]"}
        assert flat.span(lost) == (start, last + 1), "globalOffsets count where the XPath leads nowhere"


def test_the_words_of_two_blocks_do_not_run_together_and_what_is_not_shown_is_not_read() -> None:
    html = "<style>p {color: red}</style><p>Ada</p><p>Bob<script>evil()</script></p>"
    flat = flat_text(tag("HyperText", inline="true"), {"text": html})
    assert flat.text.split() == ["Ada", "Bob"]
    assert flat.value(*_of(flat.text, "Bob"))["globalOffsets"] == {"start": 17, "end": 20}


def test_the_text_of_a_result_is_written_as_the_editor_does() -> None:
    assert flat_text(tag("Text"), {"text": TEXT}).value(10, 17)["text"] == r"went\nto"


@pytest.mark.parametrize(
    ("kind", "data", "value"),
    [
        (tag("Text"), TEXT, {"start": 5, "end": 500}),
        (tag("Text"), TEXT, {"start": 5, "end": 5}),
        (tag("Text"), TEXT, {"start": -1, "end": 5}),
        (tag("HyperText"), FRAMED, place("/p[7]", 0, "/p[7]", 4)),
        (tag("Paragraphs"), TALK, place("0", 0, "7", 2)),
        (tag("Paragraphs"), TALK, place("0", 0, "0", 99)),
    ],
)
def test_a_place_outside_of_the_text_is_refused_and_named(
    kind: ObjectTag, data: Any, value: dict[str, Any]
) -> None:
    with pytest.raises(MissingTargetError, match="a span is outside of the text"):
        flat_text(kind, {"text": data}).span(value)


@pytest.mark.parametrize(
    ("kind", "data", "reason"),
    [
        (tag("Text"), None, "no text under 'text'"),
        (tag("Paragraphs"), "Hi", "no list of phrases under 'text'"),
        (tag("Paragraphs", textKey="said"), TALK, "no text 'said' in phrase 0 under 'text'"),
    ],
)
def test_data_without_the_text_is_named(kind: ObjectTag, data: Any, reason: str) -> None:
    with pytest.raises(UnreadableError, match=reason):
        flat_text(kind, {"text": data})


@pytest.mark.parametrize("html", ["<span>" * 2000 + "deep", "<frameset><frame src='/a.html'></frameset>"])
def test_a_page_that_cannot_be_walked_is_unreadable_and_harms_nobody(html: str) -> None:
    with pytest.raises(UnreadableError):
        flat_text(ObjectTag("page", "HyperText", "page"), {"page": html})


def test_utf16_units_and_characters_are_counted_as_javascript_and_python_do() -> None:
    for text in ("", "a", "😀", "a😀b", ZOE, "👩\u200d👩"):
        assert utf16_length(text) == len(text.encode("utf-16-le")) // 2
        assert code_points(text, utf16_length(text)) == len(text)


def _of(text: str, word: str) -> tuple[int, int]:
    return text.index(word), text.index(word) + len(word)
