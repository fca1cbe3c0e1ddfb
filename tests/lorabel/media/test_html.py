from xml.etree.ElementTree import Element

import pytest

from lorabel.errors import UnreadableError
from lorabel.media.html import End, Node, ShownHtml, Start, Text, parse_document, parse_fragment, read_html, walk


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
        ("a<p>b<template>no <b>no</b></template><iframe>no</iframe> c", "a\nb c"),
        ("<svg><title>no</title><script>no</script><text>yes</text></svg>", "yes"),
        ("<frameset><frame src='a.html'></frameset>", ""),
        ("", ""),
    ],
)
def test_the_text_of_a_page_is_what_a_browser_shows(html: str, shown: str) -> None:
    assert read_html(html).text == shown


def test_implied_end_tags_end_a_line_and_stray_end_tags_do_not() -> None:
    assert read_html("<select><option>one<option>two</select>three").text == "one\ntwo\nthree"
    assert read_html("one </div>two").text == "one two"


def test_pictures_are_listed_in_order_without_those_that_are_not_shown() -> None:
    html = "<img src='a.png?x=1&amp;y=2'><p>text<image src=b.png></p><img><template><img src=c.png></template>"
    assert read_html(html) == ShownHtml("text", ("a.png?x=1&y=2", "b.png"))


def test_the_walk_numbers_nodes_and_joins_texts_around_comments_and_scripts() -> None:
    html = "a<!-- c -->b<script>no</script>c<p>d</p><p><i src=x>e</i><br></p>"
    expected: list[Node] = [
        Text("abc", "/text()[1]", ""),
        Start("p", {}),
        Text("d", "/p[1]/text()[1]", "p"),
        End("p"),
        Start("p", {}),
        Start("i", {"src": "x"}),
        Text("e", "/p[2]/i[1]/text()[1]", "i"),
        End("i"),
        Start("br", {}),
        End("br"),
        End("p"),
    ]
    assert list(walk(parse_fragment(html))) == expected
    assert list(walk(_body(html))) == expected


def test_a_fragment_keeps_no_body_and_a_document_has_no_body_if_it_is_a_frameset() -> None:
    assert list(walk(parse_fragment("<body>a"))) == [Text("a", "/text()[1]", "")]
    assert parse_document("<frameset></frameset>") is None


@pytest.mark.parametrize("html", ["<div>" * 509, "<rt>" * 509 + "</p>", "<font color=a>" * 509])
def test_a_page_as_deep_as_chromium_nests_is_read(html: str) -> None:
    assert read_html(f"{html}deep").text == "deep"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("html", "reason"),
    [
        ("<div>" * 40_000, "nested more than 512 deep"),
        (
            "".join(f"<p><b a={number}></p>" for number in range(400)) + "<p>x" * 2000,
            "more elements than characters|to parse",
        ),
        ("<a " * 10_000, "more than 500 attributes"),
        (f"<p {' '.join(f'a{number}' for number in range(13_200))}>", "more than 500 attributes"),
        (f"<p a='{'&' * 2_000_000}'>", r"more than 5\.0 s to parse"),
    ],
    ids=["nested", "repeated formatting elements", "unfinished tags", "attributes", "ampersands"],
)
def test_a_page_that_is_built_to_exhaust_its_reader_is_refused_for_good(html: str, reason: str) -> None:
    with pytest.raises(UnreadableError, match=reason) as caught:
        read_html(html)
    assert caught.value.is_permanent


@pytest.mark.parametrize("html", ["<a " * 100, "<!--" * 40_000], ids=["unfinished tags", "unfinished comments"])
def test_unfinished_markup_shows_nothing(html: str) -> None:
    assert read_html(html).text == ""


@pytest.mark.slow
def test_pages_that_once_took_a_time_that_grew_with_the_square_of_their_length_are_read() -> None:
    """Within the time that a page may take by its length; before, 160 kB in a table took 16 s."""
    pages = (
        "<table>" + "x<br>" * 32_000,
        "<table>" + "x<b>y</b>" * 16_000,
        "<div>" * 480 + "<p>" * 10_000,
        ("<p " + " ".join(f"a{number}" for number in range(499)) + ">") * 20,
    )
    for page in pages:
        assert read_html(page).text is not None


def test_text_outside_of_the_cells_of_a_table_comes_before_it_in_order() -> None:
    html = "a<table>b<tr>c<td>d</td></tr>e<i>f</i>g</table>h"
    assert read_html(html).text == "abcefg\nd\nh"


def test_only_the_beginning_of_a_very_long_page_is_read_and_offsets_into_it_are_refused() -> None:
    html = "<p>first</p>" + "<!--" + "x" * 4_000_000 + "--><p>last</p>"
    assert read_html(html).text == "first"
    with pytest.raises(UnreadableError, match=r"characters, more than 4000000"):
        parse_document(html)


def _body(html: str) -> Element:
    body = parse_document(html)
    assert body is not None
    return body
