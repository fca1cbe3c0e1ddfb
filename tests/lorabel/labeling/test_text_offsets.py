"""The offsets in `MARKED` are those that Label Studio 1.23.2 wrote when the words were marked in Chromium."""

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
    return ObjectTag("text", kind, "$text", attributes)


def offsets(start: str, start_offset: int, end: str, end_offset: int, *global_offsets: int) -> dict[str, Any]:
    value: dict[str, Any] = {"start": start, "startOffset": start_offset, "end": end, "endOffset": end_offset}
    if global_offsets:
        value["globalOffsets"] = {"start": global_offsets[0], "end": global_offsets[1]}
    return value


MARKED = [
    (tag("Text"), TEXT, {"start": 5, "end": 9}, ZOE),
    (tag("Text"), TEXT, {"start": 10, "end": 17}, "went\nto"),
    (tag("Text"), TEXT, {"start": 3, "end": 9}, f"😀 {ZOE}"),
    (tag("Text"), TEXT, {"start": 18, "end": 22}, "Łódź"),
    (
        tag("HyperText"),
        FRAMED,
        offsets("/div[1]/p[1]/b[1]/text()[1]", 0, "/div[1]/p[1]/b[1]/text()[1]", 4, 7, 11),
        ZOE,
    ),
    (
        tag("HyperText"),
        FRAMED,
        offsets("/div[1]/p[1]/text()[2]", 1, "/div[1]/p[2]/text()[1]", 2, 12, 19),
        "went\n\nto",
    ),
    (
        tag("HyperText"),
        FRAMED,
        offsets("/div[1]/p[1]/text()[1]", 3, "/div[1]/p[1]/b[1]/text()[1]", 4, 5, 11),
        f"😀 {ZOE}",
    ),
    (
        tag("HyperText"),
        FRAMED,
        offsets("/div[1]/p[2]/text()[3]", 1, "/div[1]/p[2]/text()[3]", 5, 30, 34),
        "Łódź",
    ),
    (
        tag("HyperText", inline="true"),
        INLINE,
        offsets("/p[1]/text()[1]", 3, "/p[1]/b[1]/text()[1]", 4, 3, 9),
        f"😀 {ZOE}",
    ),
    (
        tag("HyperText", inline="true"),
        INLINE,
        offsets(
            "/table[1]/tbody[1]/tr[1]/td[1]/text()[1]", 0, "/table[1]/tbody[1]/tr[1]/td[1]/text()[1]", 4, 31, 35
        ),
        "Łódź",
    ),
    (tag("Paragraphs"), TALK, offsets("0", 6, "0", 10), ZOE),
    (tag("Paragraphs"), TALK, offsets("0", 11, "1", 2), "went\nto"),
    (tag("Paragraphs"), TALK, offsets("0", 3, "0", 10), f"😀 {ZOE}"),
    (tag("Paragraphs"), TALK, offsets("1", 11, "1", 15), "Łódź"),
]


@pytest.mark.parametrize(("kind", "data", "value", "text"), MARKED)
def test_offsets_of_the_editor_are_found_in_the_flat_text_and_written_again(
    kind: ObjectTag, data: Any, value: dict[str, Any], text: str
) -> None:
    flat = flat_text(kind, {"text": data})
    start, end = flat.span(value)
    assert flat.text[start:end] == text
    written = flat.value(start, end)
    written.pop("text")
    assert written == value


@pytest.mark.parametrize(("kind", "data", "value", "text"), MARKED)
def test_every_span_of_letters_survives_the_way_to_offsets_and_back(
    kind: ObjectTag, data: Any, value: dict[str, Any], text: str
) -> None:
    flat = flat_text(kind, {"text": data})
    letters = [i for i, char in enumerate(flat.text) if not char.isspace()]
    generator = random.Random(0)
    for _ in range(200):
        start, last = sorted(generator.choices(letters, k=2))
        assert flat.span(flat.value(start, last + 1)) == (start, last + 1)


def test_spans_of_random_pages_survive_the_way_to_offsets_and_back() -> None:
    generator = random.Random(1)
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
        html = "".join(generator.choices(leaves, k=12)) + "end"
        flat = flat_text(tag("HyperText"), {"text": html})
        letters = [i for i, char in enumerate(flat.text) if not char.isspace()]
        start, last = sorted(generator.choices(letters, k=2))
        value = flat.value(start, last + 1)
        assert flat.span(value) == (start, last + 1)
        value_without_path = {**value, "start": "/nav[9]/text()[1]", "end": "/nav[9]/text()[1]"}
        assert flat.span(value_without_path) == (start, last + 1), "found by globalOffsets"


def test_blocks_are_on_lines_of_their_own_and_styles_and_scripts_are_not_read() -> None:
    html = "<style>p {color: red}</style><p>Ada</p><p>Bob<script>evil()</script></p>"
    flat = flat_text(tag("HyperText", inline="true"), {"text": html})
    assert flat.text.split() == ["Ada", "Bob"]
    assert flat.value(*_span_of(flat.text, "Bob"))["globalOffsets"] == {"start": 17, "end": 20}


def test_a_line_end_in_the_text_of_a_result_is_written_as_the_editor_does() -> None:
    assert flat_text(tag("Text"), {"text": TEXT}).value(10, 17)["text"] == r"went\nto"


@pytest.mark.parametrize(
    ("kind", "data", "value"),
    [
        (tag("Text"), TEXT, {"start": 5, "end": 500}),
        (tag("Text"), TEXT, {"start": 5, "end": 5}),
        (tag("Text"), TEXT, {"start": -1, "end": 5}),
        (tag("HyperText"), FRAMED, offsets("/p[7]", 0, "/p[7]", 4)),
        (tag("Paragraphs"), TALK, offsets("0", 0, "7", 2)),
        (tag("Paragraphs"), TALK, offsets("0", 0, "0", 99)),
    ],
)
def test_offsets_outside_of_the_text_are_refused_and_named(
    kind: ObjectTag, data: Any, value: dict[str, Any]
) -> None:
    with pytest.raises(MissingTargetError, match="a span is outside of the text"):
        flat_text(kind, {"text": data}).span(value)


@pytest.mark.parametrize(
    ("kind", "data", "reason"),
    [
        (tag("Text"), None, "no text under 'text'"),
        (tag("Paragraphs"), "Hi", "no list of phrases under 'text'"),
        (tag("Paragraphs", textKey="said"), TALK, "no text 'said' in any phrase under 'text'"),
        (tag("Paragraphs"), [None], "no object as phrase 0 under 'text'"),
        (tag("Text"), [{"a": 1}], "no text under 'text'"),
    ],
)
def test_data_without_the_text_is_refused_and_the_error_names_what_is_missing(
    kind: ObjectTag, data: Any, reason: str
) -> None:
    with pytest.raises(UnreadableError, match=reason):
        flat_text(kind, {"text": data})


def test_a_phrase_without_text_keeps_its_number() -> None:
    flat = flat_text(tag("Paragraphs"), {"text": [{"text": "Ada"}, {"author": "B"}, {"text": 5}, {"text": "Bo"}]})
    assert flat.text == "Ada\n\n5\nBo"
    value = flat.value(5, 8)
    assert (value["start"], value["end"]) == ("2", "3")
    assert flat.span(value) == (5, 8)


@pytest.mark.parametrize(
    "html",
    [
        "<span>" * 2000 + "deep",
        "<frameset><frame src='/a.html'></frameset>",
        "<span>" * 500 + "x<br>" * 5000,
    ],
    ids=["deep", "frameset", "many texts with long paths"],
)
def test_a_page_that_is_too_deep_or_a_frameset_is_unreadable(html: str) -> None:
    with pytest.raises(UnreadableError, match="the page of 'page' cannot be read"):
        flat_text(ObjectTag("page", "HyperText", "$page"), {"page": html})


def test_utf16_units_are_counted_as_javascript_does_and_characters_as_python_does() -> None:
    for text in ("", "a", "😀", "a😀b", ZOE, "👩\u200d👩"):
        assert utf16_length(text) == len(text.encode("utf-16-le")) // 2
        assert code_points(text, utf16_length(text)) == len(text)


def _span_of(text: str, word: str) -> tuple[int, int]:
    return text.index(word), text.index(word) + len(word)
