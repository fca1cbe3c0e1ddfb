"""A finder of personal data that knows what it finds, in place of Presidio's recognisers."""

import re
from collections.abc import Iterator, Mapping

from lorabel.redaction import Found


class WordFinder:
    """Finds words, by their kind. As a model does, it knows them in longer texts only, where `context` is too.

    Args:
        kinds: word -> kind.
        context: without it in the text, nothing is found.
        fault: a text with it cannot be looked at.
    """

    def __init__(self, kinds: Mapping[str, str], context: str = "", fault: str | None = None) -> None:
        self.kinds, self.context, self.fault = kinds, context, fault
        self.is_loaded = False

    def load(self) -> None:
        self.is_loaded = True

    def find(self, text: str) -> Iterator[Found]:
        if self.fault is not None and self.fault in text:
            raise ValueError(f"no token for {text!r}")
        if self.context in text:
            for word, kind in self.kinds.items():
                for match in re.finditer(re.escape(word), text):
                    yield Found(kind, *match.span(), 0.85)
