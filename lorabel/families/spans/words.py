"""A text's words: where each begins and ends. An entity is made of whole words.

A word is what stands between spaces and punctuation. Scripts that write no spaces have no such thing, so there
every character is a word. Combining marks belong to the character before them.
"""

import re
import unicodedata

# Inside a word, not at its end.
JOINERS = "_\u200c\u200d"
# Thai, Lao; Myanmar; Khmer; kana; Chinese characters, those beyond the first plane too.
UNSPACED = (
    (0x0E00, 0x0EFF),
    (0x1000, 0x109F),
    (0x1780, 0x17FF),
    (0x3040, 0x30FF),
    (0x3400, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x3FFFF),
)
LETTER, ALONE, MARK, JOINER, SPACE = "lamjs"
WORD = re.compile("l[lm]*(?:j[lm]+)*|[aj]m*|m+")


def words(text: str) -> list[tuple[int, int]]:
    """(start, end) of each, in characters, the end exclusive. Any other sign that can be seen is one, too."""
    return [match.span() for match in WORD.finditer("".join(map(_kind, text)))]


def _kind(char: str) -> str:
    if char in JOINERS:
        return JOINER
    category = unicodedata.category(char)[0]
    if category == "M":
        return MARK
    if category in "ZC":
        return SPACE
    is_unspaced = any(first <= ord(char) <= last for first, last in UNSPACED)
    return LETTER if category in "LN" and not is_unspaced else ALONE
