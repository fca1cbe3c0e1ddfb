"""Texts of models that were told names and terms, and have written these in place of what is said."""

import zlib
from collections.abc import Sequence
from itertools import pairwise

from lorabel.evaluation.missed_words import words_of
from lorabel.text_contracts import WrittenText

# A text that repeats itself can be compressed to less than 1 / 2.4 of its bytes (Whisper's own rule).
REPEATED_FROM = 2.4


def is_of_words(text: WrittenText, listed: Sequence[str]) -> bool:
    """Return whether a text was written from the list of words, and not from the sound.

    So are a text without any other word, a text that has two of the words one after the other as they are listed,
    and a text that repeats itself or comes to no end.

    Args:
        listed: the words in the order in which the model was told them, without case.
    """
    if not text.text:
        return False
    written = [word.casefold() for word in words_of(text.text)]
    if not set(written) - set(listed) or set(pairwise(written)) & set(pairwise(listed)):
        return True
    content = text.text.encode()
    return not text.is_complete or len(content) / len(zlib.compress(content)) > REPEATED_FROM
