"""Moments as Label Studio's editor reads and writes them: `timeFormat` of a `<TimeSeries>`.

    %Y-%m-%d %H:%M:%S.%L   2024-05-01 12:30:00.250   1714566600250.0 ms since 1970, in UTC

The directives are those of d3-time-format (https://d3js.org/d3-time-format), which is strftime's with %L for
milliseconds, %Q and %s for milliseconds and seconds since 1970, and %q for quarters. Weeks are not read: the years
that they belong to are rarely those of the dates. Digits after a point are a fraction of a second, as Label Studio
1.23.2 pads them: ".5" is 500 ms, where d3 alone would read 5 ms.
"""

import re
from calendar import timegm
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property, lru_cache
from types import MappingProxyType

from lorabel.errors import UnreadableError

MS_PER_S, MS_PER_MINUTE = 1000.0, 60_000.0
EARLIEST_MS, LATEST_MS = -62_135_596_800_000, 253_402_300_799_999
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DAYS = ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")
MONTHS = (("January", "February", "March", "April", "May", "June", "July", "August", "September", "October")) + (
    "November",
    "December",
)
# How d3 writes dates and times for people in the United States.
COMPOSITES: Mapping[str, str] = MappingProxyType(
    {"%c": "%-m/%-d/%Y, %-I:%M:%S %p", "%x": "%-m/%-d/%Y", "%X": "%-I:%M:%S %p"}
)
DIRECTIVE = re.compile(r"%([-_0]?)([A-Za-z%])")
# What a directive matches.
PATTERNS: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys("deHIMmS", r"\s*\d{1,2}"),
        "j": r"\s*\d{1,3}",
        "L": r"\d{1,3}",
        "f": r"\d{1,6}",
        "Y": r"\s*\d{1,4}",
        "y": r"\s*\d{1,2}",
        "Q": r"\s*-?\d+",
        "s": r"\s*-?\d+",
        "q": r"[1-4]",
        "u": r"[1-7]",
        "w": r"[0-6]",
        "p": r"[AaPp][Mm]",
        "Z": r"Z|[+-]\d\d(?::?\d\d)?",
        "a": "|".join(name[:3] for name in DAYS),
        "A": "|".join(DAYS),
        "b": "|".join(name[:3] for name in MONTHS),
        "B": "|".join(MONTHS),
    }
)
# How a directive writes a moment, and its width.
NUMBERS: Mapping[str, tuple[Callable[[datetime], int], int]] = MappingProxyType(
    {
        "d": (lambda at: at.day, 2),
        "e": (lambda at: at.day, 2),
        "H": (lambda at: at.hour, 2),
        "I": (lambda at: at.hour % 12 or 12, 2),
        "M": (lambda at: at.minute, 2),
        "m": (lambda at: at.month, 2),
        "S": (lambda at: at.second, 2),
        "j": (lambda at: at.timetuple().tm_yday, 3),
        "L": (lambda at: at.microsecond // 1000, 3),
        "Y": (lambda at: at.year, 4),
        "y": (lambda at: at.year % 100, 2),
        "q": (lambda at: (at.month + 2) // 3, 1),
        "u": (lambda at: at.isoweekday(), 1),
        "w": (lambda at: at.isoweekday() % 7, 1),
        "s": (lambda at: (at - EPOCH) // timedelta(seconds=1), 1),
        "Q": (lambda at: (at - EPOCH) // timedelta(milliseconds=1), 1),
    }
)
PADS = {"-": "", "_": " ", "0": "0"}


@dataclass(frozen=True)
class TimeFormat:
    """A `timeFormat`.

    Args:
        text: as the label config has it.
    """

    text: str

    def unknown_directive(self) -> str | None:
        """Return the first directive that is not read, such as %U; None if all are."""
        names = (match[2] for match in DIRECTIVE.finditer(self._plain))
        return next((f"%{name}" for name in names if name != "%" and name not in PATTERNS), None)

    def parse(self, text: str) -> float:
        """Return the moment that a text says, in milliseconds since 1970. What it leaves open is as of 1900-01-01.

        Raises:
            UnreadableError: for good; the text is not of this format. The message does not quote it.
        """
        match = self._pattern.fullmatch(text)
        if match is None:
            raise UnreadableError(f"it is no time of the format {self.text!r}", is_permanent=True)
        moment_ms = self._moment(dict(zip(self._names, match.groups(), strict=True)))
        if not EARLIEST_MS <= moment_ms <= LATEST_MS:
            raise UnreadableError("it is before the year 1 or after 9999", is_permanent=True)
        return moment_ms

    def format(self, moment_ms: float) -> str:
        """Return a moment that `parse` has returned, in milliseconds since 1970, as the editor writes it."""
        at = EPOCH + timedelta(milliseconds=round(moment_ms))
        return DIRECTIVE.sub(lambda match: _written(at, match[1], match[2]), self._plain)

    @cached_property
    def _plain(self) -> str:
        """The format without directives that stand for others."""
        return DIRECTIVE.sub(lambda match: COMPOSITES.get(match[0], match[0]), self.text)

    @cached_property
    def _names(self) -> list[str]:
        return [match[2] for match in DIRECTIVE.finditer(self._plain) if match[2] in PATTERNS]

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        pattern, end = "", 0
        for match in DIRECTIVE.finditer(self._plain):
            pattern += re.escape(self._plain[end : match.start()])
            pattern += "%" if match[2] == "%" else f"({PATTERNS.get(match[2], '(?!)')})"
            end = match.end()
        return re.compile(pattern + re.escape(self._plain[end:]), re.IGNORECASE | re.ASCII)

    def _moment(self, parts: Mapping[str, str]) -> float:
        fraction = parts.get("L") or parts.get("f")
        fraction_ms = 0.0 if fraction is None else float(int((fraction + "00")[:3]))
        if "Q" in parts:
            return float(parts["Q"])
        if "s" in parts:
            return MS_PER_S * float(parts["s"]) + fraction_ms
        try:
            day_s = _day_s(*_date(parts))
        except (ValueError, OverflowError) as error:
            raise UnreadableError(f"it is no date: {error}", is_permanent=True) from error
        seconds = 3600 * _hour(parts) + 60 * int(parts.get("M", 0)) + int(parts.get("S", 0))
        return MS_PER_S * (day_s + seconds) + fraction_ms - MS_PER_MINUTE * _offset_minutes(parts.get("Z"))


def _date(parts: Mapping[str, str]) -> tuple[int, int, int]:
    """Year, month and day; the day may be one of the year."""
    year = 1900
    if "Y" in parts:
        year = int(parts["Y"])
    elif "y" in parts:
        two_digits = int(parts["y"])
        year = two_digits + (1900 if two_digits > 68 else 2000)
    month = 1
    if "q" in parts:
        month = 3 * int(parts["q"]) - 2
    for name in "bB":
        if name in parts:
            month = next(i for i, title in enumerate(MONTHS, 1) if title[:3].lower() == parts[name][:3].lower())
    month = int(parts.get("m", month))
    if "j" in parts:
        return year, 1, int(parts["j"])
    return year, month, int(parts.get("d", parts.get("e", 1)))


@lru_cache(maxsize=64)
def _day_s(year: int, month: int, day: int) -> int:
    """Seconds from 1970 to a day, which may lie after the month's end, as in JavaScript."""
    first = datetime(year, month, 1, tzinfo=UTC)
    return timegm((first + timedelta(days=day - 1)).timetuple())


def _hour(parts: Mapping[str, str]) -> int:
    hour = int(parts.get("H", parts.get("I", 0)))
    if "p" in parts:
        return hour % 12 + 12 * (parts["p"].lower() == "pm")
    return hour


def _offset_minutes(zone: str | None) -> int:
    if zone is None or zone in "Zz":
        return 0
    digits = zone[1:].replace(":", "").ljust(4, "0")
    minutes = 60 * int(digits[:2]) + int(digits[2:])
    return -minutes if zone[0] == "-" else minutes


def _written(at: datetime, pad: str, name: str) -> str:
    if name in NUMBERS:
        number, width = NUMBERS[name]
        fill = PADS.get(pad, " " if name == "e" else "0")
        return str(number(at)).rjust(width, fill) if fill else str(number(at))
    month = MONTHS[at.month - 1]
    day = DAYS[at.isoweekday() % 7]
    names = {"a": day[:3], "A": day, "b": month[:3], "B": month, "p": "AM" if at.hour < 12 else "PM"}
    others = {"f": f"{at.microsecond // 1000:03}000", "Z": "+0000", "%": "%"}
    return {**names, **others}.get(name, f"%{name}")
