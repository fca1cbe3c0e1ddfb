"""The words of a project: what people wrote in annotated lines. Uncertain readings are drawn to them.

A reading is changed only to a known word one or two letters away, if no other known word is as near, and if the
model is less sure of the line than `Lexicon.below`. With this limit no annotated line is read worse with the
words of the other annotated pictures; where that improves nothing either, no reading is changed. Words with digits
are never written: an amount or a date that was read wrongly may be any other.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

from lorabel.evaluation.text_metrics import edit_distance

WORD = re.compile(r"\w(?:[\w'’&-]*\w)?")
SHORTEST = 4
# Words of at least this length may differ in two letters.
LONG = 6
# Longer words are not known, nor longer lines as a whole. In languages without spaces a line is a word, and a word
# of n letters is kept under n * n / 2 others, see `_index`.
LONGEST = 24
# The most frequent words are kept.
MOST_WORDS = 1500


@dataclass(frozen=True)
class Reading:
    """A line as it was read, and what people wrote in its place.

    Args:
        picture: index of the picture.
        probability: the model's confidence in the reading.
    """

    picture: int
    text: str
    probability: float
    truth: str


@dataclass(frozen=True)
class Lexicon:
    """The known words, and short lines as a whole.

    Args:
        words: sorted.
        below: only readings with a smaller confidence are changed; 0 changes none.
        errors_before: characters read wrongly in the annotated lines.
        errors_after: the same with the words of the other annotated pictures.
        characters: characters of the annotated lines.
    """

    words: tuple[str, ...] = ()
    below: float = 0.0
    errors_before: int = 0
    errors_after: int = 0
    characters: int = 0

    def corrected(self, text: str, probability: float) -> str:
        """Return the text of a line with known words in place of uncertain readings of them."""
        return text if probability >= self.below else _corrected(text, self._index, lambda word: True)

    @cached_property
    def _index(self) -> Mapping[str, Sequence[str]]:
        return _index(self.words)


def learn_lexicon(readings: Sequence[Reading]) -> Lexicon:
    """Return the lexicon of some annotated lines."""
    by_picture: dict[int, Counter[str]] = defaultdict(Counter)
    for reading in readings:
        by_picture[reading.picture].update(set(_known(reading.truth)))
    counts = Counter(word for words in by_picture.values() for word in words)
    kept = sorted(counts, key=lambda word: (-counts[word], word))[:MOST_WORDS]
    index = _index(kept)
    changes: list[tuple[float, int]] = []
    before = 0
    for reading in readings:
        own = by_picture[reading.picture]
        corrected = _corrected(reading.text, index, _is_known_elsewhere(counts, own))
        errors = edit_distance(reading.text, reading.truth)
        before += errors
        if corrected != reading.text:
            changes.append((reading.probability, errors - edit_distance(corrected, reading.truth)))
    below, gain = _limit(changes)
    characters = sum(len(reading.truth) for reading in readings)
    return Lexicon(tuple(sorted(kept)), below, before, before - gain, characters)


def _is_known_elsewhere(counts: Mapping[str, int], own: Mapping[str, int]) -> Callable[[str], bool]:
    """Whether a word is in another picture than the one with the words `own`."""
    return lambda word: counts[word] > (word in own)


def _limit(changes: Iterable[tuple[float, int]]) -> tuple[float, int]:
    """The confidence below which changes did no harm, and how many errors they mended.

    Args:
        changes: (confidence, errors that the change mends; negative for one that makes some).
    """
    below = gain = total = 0.0
    ordered = sorted(changes)
    harmful = min((probability for probability, mended in ordered if mended <= 0), default=1.0)
    for probability, mended in ordered:
        if probability >= harmful:
            break
        total += mended
        if total > gain:
            gain, below = total, (probability + harmful) / 2
    return below, int(gain)


def _known(text: str) -> Iterator[str]:
    """The words of a line that may be written, and the line itself if it is short."""
    words = WORD.findall(text)
    whole = [text] if len(words) > 1 else []
    return (word for word in (*words, *whole) if SHORTEST <= len(word) <= LONGEST and _is_plain(word))


def _is_plain(word: str) -> bool:
    """Whether a word has no digits, and nothing that JSON cannot carry, such as half an emoji."""
    return word.isprintable() and not any(map(str.isdigit, word))


def _corrected(text: str, index: Mapping[str, Sequence[str]], is_known: Callable[[str], bool]) -> str:
    whole = _nearest(text, index, is_known)
    if whole != text:
        return whole
    return WORD.sub(lambda match: _nearest(match[0], index, is_known), text)


def _nearest(word: str, index: Mapping[str, Sequence[str]], is_known: Callable[[str], bool]) -> str:
    """The known word that is nearest, if there is exactly one near enough; else the word itself."""
    letters = sum(map(str.isalpha, word))
    if len(word) < SHORTEST or len(word) > LONGEST + 2 or 2 * letters < len(word):
        return word
    candidates = {known for part in _shortened(word) for known in index.get(part, ()) if is_known(known)}
    if word in candidates:
        return word
    ranked = sorted((edit_distance(word, known), known) for known in candidates)
    near = [(distance, known) for distance, known in ranked if distance <= _allowed(known)]
    if not near or (len(near) > 1 and near[0][0] == near[1][0]):
        return word
    return near[0][1]


def _index(words: Iterable[str]) -> Mapping[str, Sequence[str]]:
    """Each word under all that is left of it when as many letters are taken away as may differ."""
    index: dict[str, list[str]] = defaultdict(list)
    for word in words:
        for part in _shortened(word):
            index[part].append(word)
    return index


def _shortened(word: str) -> set[str]:
    parts = {word}
    for count in range(1, _allowed(word) + 1):
        parts |= {"".join(kept) for kept in combinations(word, len(word) - count)}
    return parts


def _allowed(word: str) -> int:
    return 2 if len(word) >= LONG else 1
