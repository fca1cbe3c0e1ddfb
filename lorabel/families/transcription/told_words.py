"""Names and terms that a model is told, and texts that come from these in place of what is said."""

import re
import zlib
from dataclasses import dataclass
from itertools import pairwise

from lorabel.evaluation.missed_words import words_of
from lorabel.evaluation.written_text import UNSPACED
from lorabel.text_contracts import WrittenText

# A text that repeats itself can be compressed to less than 1 / 2.4 of its bytes (Whisper's own rule).
REPEATED_FROM = 2.4


@dataclass(frozen=True)
class Told:
    """What a model is told before it hears a window.

    Args:
        words: in the order in which they are listed, without case.
        tokens: that list them, as a text that came before.
    """

    words: tuple[str, ...] = ()
    tokens: tuple[int, ...] = ()


NOTHING = Told()


def is_of_words(text: WrittenText, told: Told) -> bool:
    """Return whether a text was written from the list of words, and not from the sound.

    So are a text without any other word, a text that has two of the words one after the other as they are listed,
    and a text that repeats itself or comes to no end.
    """
    if not text.text:
        return False
    written = [word.casefold() for word in words_of(text.text)]
    has_others = set(written) - set(told.words) or re.search(UNSPACED, text.text)
    if (written and not has_others) or set(pairwise(written)) & set(pairwise(told.words)):
        return True
    content = text.text.encode()
    return not text.is_complete or len(content) / len(zlib.compress(content)) > REPEATED_FROM
