"""Masks personal data in texts: e-mail addresses, phone numbers, IBANs, credit cards, IP addresses, own patterns.

A masked text is as long as the text, also in UTF-16 units, so offsets of spans stay right. Letters become `x` or
`X`, digits `0`; spaces and ASCII punctuation stay. So words stay words, and a model can learn where an address is:

    Mail anna.b@mail.com, +49 30 1234567  ->  Mail xxxx.x@xxxx.xxx, +00 00 0000000

What is masked already is found again, and not counted again.
"""

import ipaddress
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

# For an own pattern in one text. A text in which it takes longer is masked as a whole.
TIMEOUT_S = 0.2
TIMED_OUT = "timed_out"
LONGEST_IBAN, SHORTEST_IBAN = 34, 15
LONGEST_CARD, SHORTEST_CARD = 19, 13
# Where a span begins or ends inside of something that is masked, fewer characters of it say nothing.
SHORTEST_PART = 3
ASTRAL = "\U0001d4cd"  # takes two UTF-16 units, as what it stands for

Range = tuple[int, int]


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
    """

    def __init__(self, kinds: Iterable[str], patterns: Mapping[str, str]) -> None:
        self._kinds = {name: find for name, find in KINDS.items() if name in set(kinds)}
        self._patterns = {name: compile_pattern(pattern) for name, pattern in patterns.items()}

    @property
    def is_on(self) -> bool:
        """Whether anything is masked."""
        return bool(self._kinds or self._patterns)

    def only(self, *kinds: str) -> "Redactor":
        """One that masks these kinds only, as far as this one does."""
        return Redactor(self._kinds.keys() & set(kinds), {})

    def masked(self, text: str, counts: Counter[str] | None = None) -> str:
        """The text with everything masked.

        Args:
            counts: kind, or name of a pattern -> how many were masked; is added to.
        """
        found = self._found(text)
        if not found:
            return text
        characters = list(text)
        for kind, (start, end) in found:
            mask = masked_characters(text[start:end])
            if mask != text[start:end]:
                characters[start:end] = mask
                if counts is not None:
                    counts[kind] += 1
        return "".join(characters)

    def secrets(self, text: str) -> list[str]:
        """The parts of a text that are masked."""
        return [text[start:end] for _, (start, end) in self._found(text)]

    def _found(self, text: str) -> list[tuple[str, Range]]:
        """What is found, each kind in the text as it is: what one kind masks, another may find, too."""
        found = [(name, place) for name, find in self._kinds.items() for place in find(text)]
        for name, pattern in self._patterns.items():
            try:
                found += [(name, match.span()) for match in pattern.finditer(text, timeout=TIMEOUT_S)]
            except TimeoutError:
                found.append((TIMED_OUT, (0, len(text))))
        return found


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
