"""Finds the words of a text. Entities are made of whole words.

A word is a run of letters and digits between spaces and punctuation. In scripts that write no spaces between
words, every character is a word. Combining marks belong to the character before them.
"""

import re
import unicodedata

# Joiners are part of a word if more letters follow, but not at its end.
JOINERS = "_\u200c\u200d"
# Thai, Lao; Myanmar; Khmer; kana; Chinese characters, also those beyond the basic plane.
UNSPACED = (
    (0x0E00, 0x0EFF),
    (0x1000, 0x109F),
    (0x1780, 0x17FF),
    (0x3040, 0x30FF),
    (0x3400, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x3FFFF),
)
# One letter for the kind of each character, so that WORD can match the text's kinds.
LETTER, ALONE, MARK, JOINER, SPACE = "lamjs"
WORD = re.compile("l[lm]*(?:j[lm]+)*|[aj]m*|m+")


def find_words(text: str) -> list[tuple[int, int]]:
    """Return (start, end) of each word in characters; the end is exclusive.

    Every other visible character, such as a punctuation mark, is a word of its own.
    """
    return [match.span() for match in WORD.finditer("".join(map(_kind, text)))]


def _kind(character: str) -> str:
    if character in JOINERS:
        return JOINER
    category = unicodedata.category(character)[0]
    if category == "M":
        return MARK
    if category in "ZC":
        return SPACE
    is_unspaced = any(first <= ord(character) <= last for first, last in UNSPACED)
    return LETTER if category in "LN" and not is_unspaced else ALONE
