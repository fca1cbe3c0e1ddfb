"""Words of transcripts: which of them a model has missed, and which of a project's words matter the most."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from lorabel.evaluation.written_text import UNSPACED

# Words of scripts with spaces. A name may have an apostrophe or a hyphen in it.
_WORD = re.compile(rf"(?:(?!{UNSPACED})[^\W_])+(?:['’-](?:(?!{UNSPACED})[^\W_])+)*")
LONGEST_WORD = 40


def words_of(text: str) -> list[str]:
    """Return the words of a text as they are spelled, without those that are as long as no word is.

    Scripts without spaces have none: where a name begins in them cannot be seen.
    """
    return [word for word in _WORD.findall(text) if len(word) <= LONGEST_WORD]


def missed_words(right: str, shown: str | None) -> list[str]:
    """Return the words of a right text that were not in what a model had written, each once.

    Args:
        shown: what the model had written; None if that is not known. Then these are all words.
    """
    known = {word.casefold() for word in words_of(shown or "")}
    return list(dict.fromkeys(word for word in words_of(right) if word.casefold() not in known))


def most_important(missed: Iterable[Sequence[str]], most: int) -> tuple[str, ...]:
    """Return the words that were missed most often, and of equals the newest, in their newest spelling.

    Args:
        missed: of each text, the newest first.
        most: how many words.
    """
    counts: Counter[str] = Counter()
    spellings: dict[str, str] = {}
    for words in missed:
        counts.update({word.casefold() for word in words})
        for word in words:
            spellings.setdefault(word.casefold(), word)
    # `spellings` has the newest first, and sorting keeps that order among equals.
    return tuple(spellings[word] for word in sorted(spellings, key=lambda word: -counts[word])[:most])
