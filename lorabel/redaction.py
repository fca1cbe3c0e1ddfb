"""Masks personal data in texts: e-mail addresses, phone numbers, IBANs, credit cards, IP addresses, own patterns.

`lorabel/recognizers.py` finds more. A masked text is as long as the text, also in UTF-16 units, so offsets of
spans stay right. Letters become `x` or `X`, digits `0`; spaces and ASCII punctuation stay. So words stay words,
and a model can learn where an address is:

    Mail anna.b@mail.com, +49 30 1234567  ->  Mail xxxx.x@xxxx.xxx, +00 00 0000000

What is masked already is found again, and not counted again.
"""

import ipaddress
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from traceback import extract_tb
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from lorabel.errors import LorabelError, RedactionError

# For an own pattern in one text. A text in which it takes longer is masked as a whole.
TIMEOUT_S = 0.2
TIMED_OUT = "timed_out"
LONGEST_IBAN, SHORTEST_IBAN = 34, 15
LONGEST_CARD, SHORTEST_CARD = 19, 13
# Where a span begins or ends inside of something that is masked, fewer characters of it say nothing.
SHORTEST_PART = 3
ASTRAL = "\U0001d4cd"  # takes two UTF-16 units, as what it stands for

Range = tuple[int, int]


class Found(NamedTuple):
    """Something that is masked: `text[start:end]`. `score`: how certain it is, in [0, 1]."""

    kind: str
    start: int
    end: int
    score: float = 1.0


class Finder(Protocol):
    """Finds what the patterns of this module do not, such as `lorabel.recognizers.Recognizers`. Thread-safe."""

    def load(self) -> None:
        """Prepare what takes seconds, so that the first text is not the one that waits.

        Raises:
            SettingsError: it cannot be prepared as it is set.
        """

    def find(self, text: str) -> Iterable[Found]:
        """What is in a text; parts may overlap."""


def _matches(pattern: str) -> Callable[[str], Iterator[Range]]:
    compiled = re.compile(pattern)
    return lambda text: (match.span() for match in compiled.finditer(text))


# Bounded repetitions only, so that no text takes long.
_emails = _matches(r"[\w.!#$%&'*+/=?^`{|}~-]{1,64}@(?:[\w-]{1,63}\.){1,8}[\w-]{2,63}")
# With the spaces at which lines do not break.
SPACES = " \u00a0\u202f"
# After a colon follows a number of something (`Tel:030...`), after a digit and a colon a time or a port.
_ALONE = rf"(?<![\w.,/+-])(?<!\d[:{SPACES}])"
_DATE = r"(?:0?[1-9]|[12]\d|3[01])([./-])(?:0?[1-9]|1[0-2])\1(?:\d{4}|\d{2})(?![./-]?\d)"
_phones = _matches(
    rf"(?<![\w.+])(?<!\d[{SPACES}])(?:\+|00)[1-9](?:[{SPACES}./()-]{{0,2}}\d){{6,14}}(?!\w)"
    rf"|{_ALONE}(?!{_DATE})\(?0\d(?:[{SPACES}./()-]{{0,2}}\d){{5,12}}(?!\w)"
    rf"|{_ALONE}(?:1[{SPACES}.-])?\(?\d{{3}}\)?[{SPACES}.-]\d{{3}}[{SPACES}.-]\d{{4}}(?!\w)"
)
_iban_like = _matches(
    rf"(?<!\w)(?:[A-Z]{{2}}\d{{2}}(?:[{SPACES}-]?[A-Z0-9]){{11,30}}"
    rf"|[a-z]{{2}}\d{{2}}(?:[{SPACES}-]?[a-z0-9]){{11,30}})"
)
_iban_separators = re.compile(rf"[{SPACES}-]")
_groups = re.compile(r"\d+")
# An address of four numbers may have a port, or a colon before it.
_ip_like = _matches(
    r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?!\w|\.\d)"
    r"|(?<![\w.:])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![\w:]|\.\d)"
)


def _ibans(text: str) -> Iterator[Range]:
    """Those whose check digits are right. Words in capitals may follow, so shorter ones are tried, too."""
    for start, end in _iban_like(text):
        while end > start and not _is_iban(text[start:end]):
            end -= 1
        if end > start:
            yield start, end


def _is_iban(text: str) -> bool:
    compact = _iban_separators.sub("", text)
    if not SHORTEST_IBAN <= len(compact) <= LONGEST_IBAN or not text[-1].isalnum() or not compact.isascii():
        return False
    # Of many words in small letters after two letters and digits, some have right check digits.
    if compact.islower() and 2 * sum(map(str.isdigit, compact)) < len(compact):
        return False
    return int("".join(str(int(character, 36)) for character in compact[4:] + compact[:4])) % 97 == 1


def _cards(text: str) -> Iterator[Range]:
    """Groups of digits, with a space or a hyphen between them, that are a number with a right check digit."""
    groups = [match.span() for match in _groups.finditer(text)]
    first = 0
    while first < len(groups):
        end = _card_end(text, groups, first)
        if end is not None:
            yield groups[first][0], end
        first += 1
        while end is not None and first < len(groups) and groups[first][1] <= end:
            first += 1


def _card_end(text: str, groups: Sequence[Range], first: int) -> int | None:
    """Where a card's number ends that begins with a group; None if none does."""
    start, digits, end = groups[first][0], 0, None
    for index in range(first, min(first + LONGEST_CARD, len(groups))):
        if index > first and text[groups[index - 1][1] : groups[index][0]] not in (*SPACES, "-"):
            break
        digits += groups[index][1] - groups[index][0]
        if SHORTEST_CARD <= digits <= LONGEST_CARD and _has_luhn_digit(text[start : groups[index][1]]):
            end = groups[index][1]
    return end


def _has_luhn_digit(text: str) -> bool:
    """https://en.wikipedia.org/wiki/Luhn_algorithm"""
    digits = [int(character) for character in reversed(text) if character.isdigit()]
    doubled = (sum(divmod(2 * digit, 10)) for digit in digits[1::2])
    return (sum(digits[::2]) + sum(doubled)) % 10 == 0


def _ips(text: str) -> Iterator[Range]:
    for start, end in _ip_like(text):
        try:
            ipaddress.ip_address(text[start:end])
        except ValueError:
            continue
        yield start, end


KINDS: Mapping[str, Callable[[str], Iterator[Range]]] = MappingProxyType(
    {"email": _emails, "iban": _ibans, "credit_card": _cards, "ip": _ips, "phone": _phones}
)


def compile_pattern(pattern: str) -> Any:
    """A pattern of the package regex, whose searches take a limit of time, unlike those of `re`.

    Raises:
        ValueError: it is no regular expression, or fits an empty text.
    """
    import regex

    try:
        compiled = regex.compile(pattern)
    except regex.error as error:
        raise ValueError(str(error)) from None
    if compiled.fullmatch(""):
        raise ValueError("it fits an empty text")
    return compiled


class Redactor:
    """Masks texts. Thread-safe.

    Args:
        kinds: some of KINDS.
        patterns: own regular expressions by name.
        finder: finds more; None for nothing more.
    """

    def __init__(self, kinds: Iterable[str], patterns: Mapping[str, str], finder: Finder | None = None) -> None:
        self._kinds = {name: find for name, find in KINDS.items() if name in set(kinds)}
        self._patterns = {name: compile_pattern(pattern) for name, pattern in patterns.items()}
        self._finder = finder

    @property
    def is_on(self) -> bool:
        """Whether anything is masked."""
        return bool(self._kinds or self._patterns or self._finder)

    def load(self) -> None:
        """As `Finder.load`. Call it where a process starts."""
        if self._finder is not None:
            self._finder.load()

    def only(self, *kinds: str) -> "Redactor":
        """One that masks these kinds only, as far as this one does."""
        return Redactor(self._kinds.keys() & set(kinds), {})

    def by_patterns(self) -> "Redactor":
        """One that masks what patterns find alone: for sentences of ours, in which models see names."""
        redactor = Redactor(self._kinds, {})
        redactor._patterns = self._patterns
        return redactor

    def masked(self, text: str, counts: Counter[str] | None = None) -> str:
        """The text with everything masked.

        Args:
            counts: kind, or name of a pattern -> how many were masked; is added to.

        Raises:
            RedactionError: the finder failed.
        """
        return mask(text, self.find(text), counts)

    def masked_message(self, text: str) -> str:
        """A message for a log or a record of faults; where it cannot be masked, a sentence in its place."""
        try:
            return self.masked(text)
        except LorabelError as error:
            return f"(a message is withheld, since it cannot be masked: {error})"

    def secrets(self, text: str) -> list[str]:
        """The parts of a text that are masked. Raises RedactionError, as `masked` does."""
        return [text[each.start : each.end] for each in self.find(text)]

    def find(self, text: str) -> list[Found]:
        """What is masked in a text, in its order, without overlaps.

        Each kind is looked for in the text as it is: what one kind masks, another may find, too.

        Raises:
            RedactionError: the finder failed.
        """
        found = [Found(name, *place) for name, find in self._kinds.items() for place in find(text)]
        for name, pattern in self._patterns.items():
            try:
                found += [Found(name, *match.span()) for match in pattern.finditer(text, timeout=TIMEOUT_S)]
            except TimeoutError:
                found.append(Found(TIMED_OUT, 0, len(text)))
        return united(found + self._found_by_finder(text))

    def _found_by_finder(self, text: str) -> list[Found]:
        if self._finder is None:
            return []
        try:
            return list(self._finder.find(text))
        except LorabelError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the text must not be stored
            where = _place_of(error)
        # Raised here, so that it has no context: the other error's message may have a part of the text.
        raise RedactionError(
            f"a text of {len(text):,} characters cannot be masked ({where}), so it is not stored; please report "
            "it, and leave out of REDACT what fails meanwhile"
        )


def _place_of(error: Exception) -> str:
    """The type of an error, and where it was raised."""
    places = extract_tb(error.__traceback__)
    last = places[-1] if places else None
    return type(error).__name__ + ("" if last is None else f" at {Path(last.filename).name}:{last.lineno}")


def united(found: Iterable[Found]) -> list[Found]:
    """What overlaps, as one, of the kind of the longest; of several that are as long, of the most certain."""
    groups: list[list[Found]] = []
    end = 0
    for each in sorted(found, key=lambda each: each.start):
        if groups and each.start < end:
            groups[-1].append(each)
        else:
            groups.append([each])
        end = max(end, each.end)
    united = []
    for group in groups:
        strongest = max(group, key=lambda each: (each.end - each.start, each.score))
        united.append(strongest._replace(start=group[0].start, end=max(each.end for each in group)))
    return united


def mask(text: str, found: Iterable[Found], counts: Counter[str] | None = None) -> str:
    """The text with what was found masked.

    Args:
        found: without overlaps.
        counts: as in `Redactor.masked`. What is masked already is not counted.
    """
    characters = list(text)
    for kind, start, end, _ in found:
        masked = masked_characters(text[start:end])
        if masked != text[start:end]:
            characters[start:end] = masked
            if counts is not None:
                counts[kind] += 1
    return "".join(characters)


def masked_characters(text: str) -> str:
    """A text of the same length, also in UTF-16 units, that says nothing but where words and punctuation are."""
    return "".join(map(_mask, text))


def masked_part(text: str, secrets: Iterable[str]) -> str:
    """A part of a longer text, without what it has of the secrets in that text: it may begin or end inside one."""
    for secret in secrets:
        if len(text) >= SHORTEST_PART and text in secret:
            return masked_characters(text)
        text = text.replace(secret, masked_characters(secret))
        longest = min(len(text), len(secret)) - 1
        for length in range(longest, SHORTEST_PART - 1, -1):
            if text.startswith(secret[-length:]):
                text = masked_characters(text[:length]) + text[length:]
                break
        for length in range(longest, SHORTEST_PART - 1, -1):
            if text.endswith(secret[:length]):
                text = text[:-length] + masked_characters(text[-length:])
                break
    return text


def _mask(character: str) -> str:
    if ord(character) > 0xFFFF:
        return ASTRAL
    if character.isspace() or (character.isascii() and not character.isalnum()):
        return character
    return "0" if character.isdigit() else "X" if character.isupper() else "x"
