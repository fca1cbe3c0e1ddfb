from datetime import UTC, datetime

import pytest

from lorabel.errors import UnreadableError
from lorabel.media.time_format import TimeFormat

MOMENT = datetime(2024, 5, 7, 14, 3, 9, tzinfo=UTC)


@pytest.mark.parametrize(
    "text",
    [
        "%Y-%m-%d %H:%M:%S",
        "%d.%m.%Y %H:%M:%S",
        "%m/%d/%y %I:%M:%S %p",
        "%B %d, %Y %H:%M:%S",
        "%a %b %d %H:%M:%S %Y",
        "%Y%m%dT%H%M%SZ",
        "%Y %j %H:%M:%S",
        "100%% %Y-%m-%d %H:%M:%S",
    ],
)
def test_a_moment_is_written_and_read_as_by_pythons_strftime(text: str) -> None:
    written = MOMENT.strftime(text)
    assert TimeFormat(text).format(1000 * MOMENT.timestamp()) == written
    assert TimeFormat(text).parse(written) == 1000 * MOMENT.timestamp()


@pytest.mark.parametrize(
    ("text", "written", "moment_ms"),
    [
        # What d3's utcParse of Label Studio 1.23.2 makes of them, with its padding of fractions.
        ("%Y-%m-%d", "1970-01-02", 86_400_000),
        ("%H:%M", "00:01", -2_208_988_740_000),
        ("%Q", "1714566600250", 1_714_566_600_250),
        ("%s", "1714566600", 1_714_566_600_000),
        ("%Y-%m-%d %H:%M:%S.%L", "1970-01-01 00:00:01.5", 1500),
        ("%Y-%m-%d %H:%M:%S.%f", "1970-01-01 00:00:01.123456", 1123),
        ("%Y-%m-%dT%H:%M:%S%Z", "1970-01-01T02:00:00+02:00", 0),
        ("%Y-%m-%dT%H:%M:%S%Z", "1970-01-01T00:00:00Z", 0),
        ("%-m/%-d/%Y", "1/2/1970", 86_400_000),
        ("%Y q%q", "1970 q2", 7_776_000_000),
        ("%y", "69", -31_536_000_000),
        ("%x", "1/2/1970", 86_400_000),
        ("%Y-%m-%d", "1970-02-31", 5_270_400_000),
    ],
)
def test_other_forms_are_read(text: str, written: str, moment_ms: int) -> None:
    assert TimeFormat(text).parse(written) == moment_ms


def test_fractions_are_written_in_milliseconds() -> None:
    assert TimeFormat("%S.%L").format(1123) == "01.123"
    assert TimeFormat("%S.%f").format(1123) == "01.123000"


@pytest.mark.parametrize("written", ["2024-05-01 12:00", "2024-13-01", "yesterday", "", "0000-01-01"])
def test_what_is_no_time_of_the_format_has_a_reason_that_does_not_quote_it(written: str) -> None:
    with pytest.raises(UnreadableError) as error:
        TimeFormat("%Y-%m-%d").parse(written)
    assert error.value.is_permanent and (not written or written not in str(error.value))


def test_every_moment_that_is_read_can_be_written() -> None:
    time_format = TimeFormat("%Q")
    for moment in ("-62135596800000", "253402300799999"):
        assert time_format.format(time_format.parse(moment)) == moment
    for moment in ("-62135596800001", "253402300800000", "9" * 400):
        with pytest.raises(UnreadableError, match="before the year 1 or after 9999"):
            time_format.parse(moment)
    for text, written in (
        ("%s", "9" * 400),
        ("%Y-%m-%dT%H:%M:%S%Z", "9999-12-31T23:00:00-02:00"),
        ("%Y-%m-%d", "9999-12-99"),
        ("%Y-%j", "9999-999"),
    ):
        with pytest.raises(UnreadableError):
            TimeFormat(text).parse(written)


def test_after_an_escaped_percent_comes_no_directive() -> None:
    assert TimeFormat("%Y %%c %%x").format(0.0) == "1970 %c %x"
    assert TimeFormat("%Y %%c").parse("1970 %c") == 0.0
    assert TimeFormat("%c").format(0.0) == "1/1/1970, 12:00:00 AM"


def test_a_directive_that_is_not_read_is_named() -> None:
    assert TimeFormat("%Y week %U").unknown_directive() == "%U"
    assert TimeFormat("%Y-%m-%d %c %%").unknown_directive() is None
