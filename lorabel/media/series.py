"""Series of numbers in time: CSV, or JSON with a list for each column, as Label Studio's `<TimeSeries>` reads
them.

    time,load,flow                  {"time": ["12:00", "12:01"], "load": [1.5, null], "flow": [0.1, 0.2]}
    12:00,1.5,0.1
    12:01,,0.2

A value that is missing (empty, null, NaN) is a gap. Label Studio 1.23.2 finds columns by names in small letters,
or by index; a CSV file has no header if each column has the same kind of value, number or text, in its first two
rows (`parseCSV` in libs/editor/src/utils/data.js). Without a time column the index of a row is its time.

Messages never quote what was read.
"""

import csv
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lorabel.content_formats import SeriesFormat
from lorabel.errors import UnreadableError
from lorabel.media.deadline import check_deadline
from lorabel.media.javascript_text import as_text
from lorabel.media.time_format import TimeFormat

Float64 = NDArray[np.float64]
SEPARATORS: Mapping[str, str] = MappingProxyType(
    {"tab": "\t", "\\t": "\t", "space": " ", "comma": ",", "dot": "."}
)
GUESSED = ",;\t "
MISSING = frozenset({"", "nan", "null", "none", "na", "n/a"})
ROWS_AT_ONCE = 20_000
# A larger number counts as missing: differences and squares must be finite.
LARGEST = 1e100


@dataclass(frozen=True)
class Series:
    """A series.

    Args:
        times: (points,) never falling; milliseconds since 1970 if they are dates, else as they were written, or
            the index of each point.
        values: (points, channels); NaN is a missing value. Each channel has at least one.
    """

    times: Float64
    values: Float64


def read_series(data: bytes | str, series_format: SeriesFormat, most_points: int) -> Series:
    """Read a series.

    Args:
        data: a file in UTF-8, or a text in JSON.
        most_points: a longer series is refused.

    Raises:
        UnreadableError: for good; it is neither CSV nor JSON, a column is missing, there is no point or there are
            too many, a value is no number, or times cannot be read or run backwards.
    """
    text = data if isinstance(data, str) else _decoded(data)
    stripped = text.lstrip()
    columns = _json_columns(stripped, series_format) if stripped.startswith("{") else None
    if columns is None:
        columns = _csv_columns(text, series_format, most_points)
    *channels, times = columns
    points = len(channels[0])
    if not points:
        raise _unreadable("the series has no points")
    if points > most_points:
        raise _unreadable(f"the series has {points} points, more than {most_points} (SERIES_MAX_POINTS)")
    if len(times) != points or any(len(channel) != points for channel in channels):
        raise _unreadable("the columns of the series are not of one length")
    for name, channel in zip(series_format.channels, channels, strict=True):
        if np.isnan(channel).all():
            raise _unreadable(f"column {name!r} has no value")
    falls = np.flatnonzero(np.diff(times) < 0)
    if len(falls):
        raise _unreadable(
            f"the times in column {series_format.time_column!r} run backwards at row {falls[0] + 2}; sort the "
            "series by time"
        )
    return Series(times, np.stack(channels, axis=1))


def _decoded(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _unreadable(
            f"a series of {len(data)} bytes is not UTF-8: {error.reason} at byte {error.start}"
        ) from error


def _json_columns(text: str, series_format: SeriesFormat) -> list[Float64] | None:
    """The channels, then the times; None if the text is no JSON."""
    try:
        table = json.loads(text)
    except (ValueError, RecursionError):
        return None
    names = list(table)
    if not all(isinstance(column, list) for column in table.values()):
        table = {name: column for name, column in table.items() if isinstance(column, list)}
    channels = [_numbers(_column(table, names, name), name, 0) for name in series_format.channels]
    times: Float64 = np.arange(len(channels[0]), dtype=np.float64)
    if series_format.time_column:
        cells = _column(table, names, series_format.time_column)
        times = _time_reader(series_format)(cells, 0)
    return [*channels, times]


def _column(table: Mapping[str, list[Any]], names: Sequence[str], name: str) -> list[Any]:
    index = _index(names, name)
    column = table.get(names[index])
    if column is None:
        raise _unreadable(f"column {name!r} of the series is no list")
    return column


def _csv_columns(text: str, series_format: SeriesFormat, most_points: int) -> list[Float64]:
    """The channels, then the times."""
    separator = _separator(text, series_format.separator)
    rows = (row for row in csv.reader(_lines(text), delimiter=separator) if any(map(str.strip, row)))
    try:
        first = list(islice(rows, 2))
        if not first:
            raise _unreadable("the series is empty")
        names = [str(index) for index in range(len(first[0]))]
        has_header = len(first) < 2 or not _is_alike(first)
        if has_header:
            names = [name.strip() for name in first.pop(0)]
        indices = [_index(names, name) for name in series_format.channels]
        time_index = _index(names, series_format.time_column) if series_format.time_column else None
        return _read_rows(first, rows, series_format, (indices, time_index, len(names)), most_points)
    except csv.Error as error:
        raise _unreadable(f"the series is no CSV with the separator {separator!r}: {error}") from error


def _read_rows(
    first: list[list[str]],
    rows: Iterator[list[str]],
    series_format: SeriesFormat,
    columns: tuple[Sequence[int], int | None, int],
    most_points: int,
) -> list[Float64]:
    """See `_csv_columns`.

    Args:
        columns: the indices of the channels, that of the times, and how many columns there are.
    """
    indices, time_index, width = columns
    read_times = _time_reader(series_format)
    parts: list[list[Float64]] = []
    count = 0
    while batch := [*first, *islice(rows, ROWS_AT_ONCE)]:
        first = []
        check_deadline()
        for number, row in enumerate(batch):
            if len(row) == width + 1 and not row[-1].strip():
                row.pop()  # a separator after the last cell
            if len(row) != width:
                raise _unreadable(
                    f"row {count + number + 1} of the series has {len(row)} columns, and others have {width}"
                )
        channels = [
            _numbers([row[index] for row in batch], name, count)
            for index, name in zip(indices, series_format.channels, strict=True)
        ]
        times: Float64 = np.arange(count, count + len(batch), dtype=np.float64)
        if time_index is not None:
            times = read_times([row[time_index] for row in batch], count)
        parts.append([*channels, times])
        count += len(batch)
        if count > most_points:
            raise _unreadable(f"the series has more than {most_points} points (SERIES_MAX_POINTS)")
    if not parts:
        raise _unreadable("the series has no points")
    return [np.concatenate(column) for column in zip(*parts, strict=True)]


def _lines(text: str) -> Iterator[str]:
    """The lines of a text one by one: io.StringIO would take four bytes for each character."""
    start, line_end = 0, _line_end(text)
    while start < len(text):
        end = text.find(line_end, start) + 1 or len(text)
        yield text[start:end]
        start = end


def _line_end(text: str) -> str:
    """The last character of a line: a carriage return alone in files of old Macs."""
    return "\n" if "\n" in text else "\r"


def _separator(text: str, separator: str) -> str:
    """The character between columns; `auto` is the one that the first two rows have as often, the oftenest."""
    if separator != "auto":
        return SEPARATORS.get(separator, separator[:1] or ",")
    first, second = [line.strip() for line in [*text.split(_line_end(text), 2), ""][:2]]
    counts = {each: first.count(each) if first.count(each) == second.count(each) else 0 for each in GUESSED}
    return max(counts, key=counts.__getitem__)


def _is_alike(rows: Sequence[Sequence[str]]) -> bool:
    """Whether each column of the first row has a number where that of the second has."""
    return [_is_number(cell) for cell in rows[0]] == [_is_number(cell) for cell in rows[1]]


def _is_number(cell: str) -> bool:
    try:
        float(cell.strip() or "0")
    except ValueError:
        return False
    return True


def _index(names: Sequence[str], name: str) -> int:
    """The index of a column, by its name in any case, else by its index."""
    folded = [each.lower() for each in names]
    if name.lower() in folded:
        return folded.index(name.lower())
    if name.isascii() and name.isdecimal() and int(name) < len(names):
        return int(name)
    raise _unreadable(f"the series has no column {name!r}, only {len(names)} others")


def _numbers(cells: Sequence[Any], name: str, before: int) -> Float64:
    """The values of a column.

    Args:
        before: how many rows come before.
    """
    try:
        values = np.array(cells, dtype=np.float64)  # the usual case, and much faster
    except (ValueError, TypeError, OverflowError):
        values = np.array([_number(cell, name, before + row) for row, cell in enumerate(cells)], dtype=np.float64)
    if values.ndim != 1:
        raise _unreadable(f"column {name!r} has lists in place of numbers")
    values[np.abs(values) > LARGEST] = math.nan
    return values


def _number(cell: Any, name: str, row: int) -> float:
    if cell is None or (isinstance(cell, str) and cell.strip().lower() in MISSING):
        return math.nan
    try:
        return float(cell)
    except (ValueError, TypeError, OverflowError) as error:
        kind = "text" if isinstance(cell, str) else f"a {type(cell).__name__}"
        raise _unreadable(f"column {name!r} has {kind} in row {row + 1}, where a number was expected") from error


def _time_reader(series_format: SeriesFormat) -> Callable[[Sequence[Any], int], Float64]:
    """A function from the cells of the time column, and how many rows come before, to the times."""
    name = series_format.time_column
    if series_format.time_format:
        time_format = TimeFormat(series_format.time_format)

        def read_dates(cells: Sequence[Any], before: int) -> Float64:
            moments = np.empty(len(cells))
            for row, cell in enumerate(cells):
                try:
                    moments[row] = time_format.parse(as_text(cell).strip())
                except UnreadableError as error:
                    raise _unreadable(f"column {name!r} has no time in row {before + row + 1}: {error}") from error
            return moments

        return read_dates

    def read_numbers(cells: Sequence[Any], before: int) -> Float64:
        try:
            times = _numbers(cells, name, before)
        except UnreadableError as error:
            raise _unreadable(f"{error}; for dates set timeFormat") from error
        missing = np.flatnonzero(np.isnan(times))
        if len(missing):
            raise _unreadable(f"column {name!r} has no time in row {before + missing[0] + 1}")
        return times

    return read_numbers


def _unreadable(reason: str) -> UnreadableError:
    return UnreadableError(reason, is_permanent=True)
