"""html5lib's parser with limits, since strangers write the pages that it reads.

html5lib is linear on usual pages, but not on all: tags with thousands of attributes, tables with text outside of
their cells, and deep nesting cost it the square of their number. What is known is limited or made linear; for
everything else there is a limit on the processor's time, which grows with the length of the page, and the deadline
of `lorabel.media.deadline`.
"""

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from time import thread_time
from typing import Any

import html5lib
from html5lib._tokenizer import HTMLTokenizer
from html5lib.constants import tokenTypes

from lorabel.errors import UnreadableError
from lorabel.media.deadline import check_deadline, seconds_left

# Longer pages are not parsed.
MOST_CHARACTERS = 4_000_000
# Chromium's parser nests no deeper, and html5lib's time grows with the square of the depth.
MOST_NESTED = 512
# Browsers have no such limit, but html5lib compares each attribute of a tag with all others.
MOST_ATTRIBUTES = 500
# A page may have this many elements, and one more for each of its characters. A browser repeats open formatting
# elements in each paragraph, so a few kilobytes can ask for millions of elements.
FREE_ELEMENTS = 10_000
# Seconds of the processor for a page, and for each of its characters: several times what dense markup takes.
FREE_S = 2.0
S_PER_CHARACTER = 5e-6
MOST_S = 5.0
# States of the tokenizer, or elements, between two looks at the clock.
CHECK_EVERY = 256

# Python runs one thread at a time. Pages that are parsed at the same time would only slow each other down, and
# with them all short requests of the process.
_parse_lock = threading.Lock()


def parse_page(html: str, container: str | None) -> Any:
    """Parse a page.

    Thread-safe; one page is parsed at a time.

    Args:
        container: name of the element in whose `innerHTML` the page is; None for a whole document.

    Returns:
        The root of an ElementTree.

    Raises:
        UnreadableError: for good; the page is too long, or is built to exhaust its reader. For now; the deadline
            has passed.
    """
    if len(html) > MOST_CHARACTERS:
        raise UnreadableError(
            f"the page has {len(html)} characters, more than {MOST_CHARACTERS}", is_permanent=True
        )
    with _turn():
        parser = _Parser(_Clock(len(html)), FREE_ELEMENTS + len(html))
        try:
            return parser.parse(html) if container is None else parser.parseFragment(html, container=container)
        except (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise UnreadableError(
                f"the page cannot be parsed ({type(error).__name__} in html5lib)", is_permanent=True
            ) from error


@contextmanager
def _turn() -> Iterator[None]:
    """Wait until no other page is parsed; after the deadline raise an UnreadableError, not for good."""
    while not _parse_lock.acquire(timeout=seconds_left(threading.TIMEOUT_MAX)):
        check_deadline()
    try:
        check_deadline()
        yield
    finally:
        _parse_lock.release()


class _Clock:
    """Limits the processor's time of the thread that parses a page, and looks at the deadline."""

    def __init__(self, characters: int) -> None:
        self._limit_s = min(FREE_S + S_PER_CHARACTER * characters, MOST_S)
        self._ends_at = thread_time() + self._limit_s
        self._calls = 0

    def check(self) -> None:
        """Raise an UnreadableError if the time is over; looks at the clock now and then."""
        self._calls += 1
        if self._calls % CHECK_EVERY:
            return
        check_deadline()
        if thread_time() > self._ends_at:
            raise UnreadableError(
                f"the page takes more than {self._limit_s:.1f} s to parse, which usual pages of its length do not",
                is_permanent=True,
            )


class _Parser(html5lib.HTMLParser):  # type: ignore[misc]  # html5lib has no types
    """html5lib's parser with our tokenizer and tree builder."""

    def __init__(self, clock: _Clock, most_elements: int) -> None:
        self._clock = clock
        super().__init__(tree=partial(_TreeBuilder, clock, most_elements), namespaceHTMLElements=False)

    def _parse(
        self, stream: str, is_fragment: bool = False, container: str = "div", scripting: bool = False
    ) -> None:
        """As in html5lib 1.1, which gives no other way to choose the tokenizer.

        html5lib parses again if it has read another encoding in the page; a string has none.
        """
        self.innerHTMLMode, self.container, self.scripting = is_fragment, container, scripting
        self.tokenizer = _Tokenizer(self._clock, stream, self)
        self.reset()
        self.mainLoop()


class _Tokenizer(HTMLTokenizer):  # type: ignore[misc]  # html5lib has no types
    """html5lib's tokenizer, with limits."""

    def __init__(self, clock: _Clock, stream: str, parser: _Parser) -> None:
        self._clock = clock
        super().__init__(stream, parser=parser)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The tokens. As in html5lib, but looks at the clock between states: one tag has many of them."""
        self.tokenQueue: deque[dict[str, Any]] = deque()
        while self.state():
            self._clock.check()
            while self.stream.errors:
                yield {"type": tokenTypes["ParseError"], "data": self.stream.errors.pop(0)}
            while self.tokenQueue:
                yield self.tokenQueue.popleft()

    def attributeNameState(self) -> bool:  # noqa: N802 - html5lib's name
        """Every attribute comes through this state."""
        if len(self.currentToken["data"]) > MOST_ATTRIBUTES:
            raise UnreadableError(
                f"a tag of the page has more than {MOST_ATTRIBUTES} attributes", is_permanent=True
            )
        return bool(super().attributeNameState())


_EtreeBuilder: Any = html5lib.getTreeBuilder("etree")


class _Element(_EtreeBuilder.elementClass):  # type: ignore[misc]  # html5lib has no types
    """html5lib's element, which finds a child from the end.

    What is outside of a table's cells goes before the table, which is the last child of its parent. html5lib looks
    for it from the beginning, so that it takes the square of the number of such texts.
    """

    def insertBefore(self, node: Any, refNode: Any) -> None:  # noqa: N802, N803 - html5lib's names
        self._element.insert(self._index(refNode), node._element)
        node.parent = self

    def insertText(self, data: str, insertBefore: Any = None) -> None:  # noqa: N802, N803 - html5lib's names
        if insertBefore is None or not len(self._element):
            super().insertText(data, insertBefore)
            return
        index = self._index(insertBefore)
        if index:
            self._element[index - 1].tail = (self._element[index - 1].tail or "") + data
        else:
            self._element.text = (self._element.text or "") + data

    def _index(self, child: Any) -> int:
        children = self._element
        return next(i for i in range(len(children) - 1, -1, -1) if children[i] is child._element)


class _TreeBuilder(_EtreeBuilder):  # type: ignore[misc]  # html5lib has no types
    """html5lib's tree builder, with limits."""

    elementClass = _Element  # noqa: N815 - html5lib's name

    def __init__(self, clock: _Clock, most_elements: int, namespace_elements: bool) -> None:
        self._clock, self._most_elements = clock, most_elements
        super().__init__(namespace_elements)

    def reset(self) -> None:
        super().reset()
        self.openElements = _OpenElements(self._clock, self._most_elements)


class _OpenElements(list[Any]):
    """html5lib's stack of open elements. Every element of the page is appended to it once."""

    def __init__(self, clock: _Clock, most_elements: int) -> None:
        super().__init__()
        self._clock, self._elements_left = clock, most_elements

    def append(self, element: Any) -> None:
        self._clock.check()
        self._elements_left -= 1
        if len(self) >= MOST_NESTED:
            raise UnreadableError(
                f"elements of the page are nested more than {MOST_NESTED} deep", is_permanent=True
            )
        if self._elements_left < 0:
            raise UnreadableError("the page has more elements than characters", is_permanent=True)
        super().append(element)
