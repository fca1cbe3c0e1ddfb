"""HTML -> what a page shows. This module is the only reader of HTML; it fetches nothing.

html5lib builds the tree that a browser builds (https://html.spec.whatwg.org/multipage/parsing.html), and `walk`
goes through it in document order:

    <p>Ada <b>Bob</b><br></p>   Start p, Text "Ada " at /p[1]/text()[1],
                                Start b, Text "Bob" at /p[1]/b[1]/text()[1], End b, Start br, End br, End p

`read_html` makes a text for a model of it, `lorabel.labeling.text_offsets` makes Label Studio's offsets of it.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from xml.etree.ElementTree import Element

from lorabel.media.html_parser import parse_page

# Label Studio's sanitizer removes these elements with all that is in them (1.23.2).
SANITIZED = frozenset({"script", "iframe"})
# Elements whose content a browser does not show.
HIDDEN = SANITIZED | {"style", "title", "template"}
# Elements that begin and end a line. Around all others words go on: "un<b>do</b>" is a single word.
BLOCKS = re.compile(
    "address|article|aside|blockquote|br|dd|div|dl|dt|fieldset|figcaption|figure|footer|form|h[1-6]|header|hr|li|main"
    "|nav|ol|option|p|pre|section|table|t[dhr]|ul"
)
# Characters of a page that are read for a model, which needs the text of the beginning only.
MOST_READ = 2_000_000


@dataclass(frozen=True)
class Start:
    """An element begins.

    Args:
        name: in lower case; elements of SVG and MathML have their namespace before it, "{http://...}svg".
    """

    name: str
    attributes: Mapping[str, str]


@dataclass(frozen=True)
class End:
    """An element ends. Elements without content (`<br>`) end, too."""

    name: str


@dataclass(frozen=True)
class Text:
    """A text node; never empty.

    Args:
        path: its XPath, "/p[1]/text()[2]".
        parent: name of the element that it is in; "" for the root.
    """

    text: str
    path: str
    parent: str


Node = Start | End | Text


@dataclass(frozen=True)
class ShownHtml:
    """What a browser shows of a page.

    Args:
        text: a line for each block, without empty lines; runs of white space are a single space.
        picture_urls: `src` of each `<img>`, as the page has it.
    """

    text: str
    picture_urls: tuple[str, ...] = ()


def read_html(html: str) -> ShownHtml:
    """Read a page, or a piece of a page, for a model.

    Only the first `MOST_READ` characters are parsed.

    Raises:
        UnreadableError: for good; the page is built to exhaust its reader.
    """
    body = parse_document(html[:MOST_READ]) if html else None
    if body is None:
        return ShownHtml("")
    lines: list[list[str]] = [[]]
    picture_urls: list[str] = []
    hidden = 0
    for node in walk(body):
        if isinstance(node, Text):
            if not hidden:
                lines[-1].append(node.text)
            continue
        name = node.name.rpartition("}")[2]
        if name in HIDDEN:
            hidden += 1 if isinstance(node, Start) else -1
        if BLOCKS.fullmatch(name):
            lines.append([])
        if isinstance(node, Start) and name == "img" and node.attributes.get("src") and not hidden:
            picture_urls.append(node.attributes["src"])
    texts = (" ".join("".join(line).split()) for line in lines)
    return ShownHtml("\n".join(text for text in texts if text), tuple(picture_urls))


def parse_document(html: str) -> Element | None:
    """Parse a whole page in standards mode, as the `srcdoc` of an iframe that begins with a doctype.

    Returns:
        The `<body>`; None if the page is a frameset, which has none.

    Raises:
        UnreadableError: for good; the page is too long, or is built to exhaust its reader.
    """
    body: Element | None = parse_page(f"<!DOCTYPE html>{html}", None).find("body")
    return body


def parse_fragment(html: str) -> Element:
    """Parse what JavaScript would assign to the `innerHTML` of a `<div>`.

    Returns:
        An element that stands for the `<div>`.

    Raises:
        UnreadableError: for good; the page is too long, or is built to exhaust its reader.
    """
    root: Element = parse_page(html, "div")
    return root


def walk(root: Element) -> Iterator[Node]:
    """Go through everything below the root in document order.

    Comments and `SANITIZED` elements are left out, and the texts around them are a single text node. Paths begin
    below the root and count each kind of node among its siblings, from 1.
    """
    open_elements = [_OpenElement("", "", iter(root), [root.text or ""])]
    while open_elements:
        parent = open_elements[-1]
        child = next(parent.children, None)
        if child is None:
            yield from parent.take_text()
            open_elements.pop()
            if open_elements:
                yield End(parent.name)
        # The tag of a comment is a function.
        elif not isinstance(child.tag, str) or child.tag in SANITIZED:
            parent.texts.append(child.tail or "")
        else:
            yield from parent.take_text()
            parent.texts.append(child.tail or "")
            name = child.tag.lower()
            yield Start(name, child.attrib)
            open_elements.append(_OpenElement(name, parent.path_of(name), iter(child), [child.text or ""]))


@dataclass
class _OpenElement:
    """An element whose children are being walked.

    Args:
        texts: parts of the text node that comes next.
        counts: how many children of each kind came so far.
    """

    name: str
    path: str
    children: Iterator[Element]
    texts: list[str]
    counts: dict[str, int] = field(default_factory=dict)

    def path_of(self, kind: str) -> str:
        """The XPath of the next child of this kind."""
        self.counts[kind] = self.counts.get(kind, 0) + 1
        return f"{self.path}/{kind}[{self.counts[kind]}]"

    def take_text(self) -> Iterator[Text]:
        """The text node that ends here; nothing if it would be empty."""
        text = "".join(self.texts)
        self.texts = []
        if text:
            yield Text(text, self.path_of("text()"), self.name)
