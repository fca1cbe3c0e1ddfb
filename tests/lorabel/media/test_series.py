import json
import math
from typing import Any

import numpy as np
import pytest

from lorabel.content_formats import SeriesFormat
from lorabel.errors import UnreadableError
from lorabel.media.series import Series, read_series

DATED = SeriesFormat(channels=("load", "flow"), time_column="time", time_format="%Y-%m-%d %H:%M")
NUMBERED = SeriesFormat(channels=("load",), time_column="time")


def read(data: str | dict[str, Any], series_format: SeriesFormat = NUMBERED) -> Series:
    return read_series(data.encode() if isinstance(data, str) else json.dumps(data), series_format, 1000)


def test_columns_are_found_by_name_in_any_case_and_missing_values_are_gaps() -> None:
    file = "Time;LOAD;other;flow\n1970-01-01 00:00;1.5;x;\n\n1970-01-01 00:01;nan;y;2e1\n"
    series = read(file, DATED.model_copy(update={"separator": ";"}))
    assert series.times.tolist() == [0.0, 60_000.0]
    np.testing.assert_equal(series.values, [[1.5, math.nan], [math.nan, 20.0]])


def test_json_has_a_list_for_each_column() -> None:
    table = {"time": ["1970-01-01 00:00", "1970-01-01 00:01"], "load": [1, None], "flow": ["2", 3.5]}
    series = read(table, DATED)
    assert series.times.tolist() == [0.0, 60_000.0]
    np.testing.assert_equal(series.values, [[1.0, 2.0], [math.nan, 3.5]])
    np.testing.assert_equal(read(json.dumps(table), DATED).values, series.values)


def test_seconds_and_milliseconds_since_1970_may_be_numbers() -> None:
    for name, moments in (("%s", [1700000000, 1700000001.0]), ("%Q", [1700000000000.0, 1700000001000])):
        series_format = NUMBERED.model_copy(update={"time_format": name})
        read_times = read({"time": moments, "load": [1, 2]}, series_format).times
        assert read_times.tolist() == [1.7e12, 1.700000001e12]


def test_without_a_time_column_the_index_is_the_time() -> None:
    for data in ("load,x\n5,a\n6,b\n", {"load": [5, 6]}):
        assert read(data, SeriesFormat(channels=("load",))).times.tolist() == [0.0, 1.0]


def test_a_file_without_a_header_has_columns_by_index() -> None:
    series = read("0.5\t7\n1.5\t8\n", SeriesFormat(channels=("1",), time_column="0", separator="tab"))
    assert series.times.tolist() == [0.5, 1.5] and series.values[:, 0].tolist() == [7.0, 8.0]


def test_a_channel_may_be_named_by_the_index_of_a_named_column() -> None:
    assert read("time,load\n1,5\n2,6\n", NUMBERED.model_copy(update={"channels": ("1",)})).values.tolist() == [
        [5],
        [6],
    ]


def test_numbers_that_are_too_large_to_compute_with_are_gaps_and_no_times() -> None:
    series = read("time,load\n1,1e308\n2,-inf\n3,6\n")
    np.testing.assert_equal(series.values[:, 0], [math.nan, math.nan, 6.0])
    with pytest.raises(UnreadableError, match="no time in row 1"):
        read("time,load\n-1e308,5\n1e308,6\n")


@pytest.mark.parametrize("separator", [",", ";", "\t", " "])
def test_a_separator_may_be_guessed(separator: str) -> None:
    file = "\n".join(separator.join(row) for row in (("time", "load"), ("1", "5"), ("2", "6")))
    assert read(file, NUMBERED.model_copy(update={"separator": "auto"})).values.tolist() == [[5.0], [6.0]]


@pytest.mark.parametrize("separator", [",", "auto"])
def test_a_separator_after_the_last_cell_of_each_row_and_old_line_ends_are_read(separator: str) -> None:
    read_as = NUMBERED.model_copy(update={"separator": separator})
    assert read("time,load\r1,5\r2,6\r", read_as).values.tolist() == [[5.0], [6.0]]
    assert read("time,load\n1,5,\n2,6, \n", NUMBERED).values.tolist() == [[5.0], [6.0]]


def test_equal_times_and_quoted_cells_are_read() -> None:
    assert read('time,load\n"1","5"\n1,6\r\n').times.tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ("", "the series is empty"),
        ("time,load\n", "no points"),
        ({"time": [], "load": []}, "no points"),
        ("time,load\n1,5\n2,secret\n", "column 'load' has text in row 2"),
        ({"time": [1, 2], "load": [5, {"a": 1}]}, "column 'load' has a dict in row 2"),
        ({"time": [1, 2], "load": [[5], [6]]}, "column 'load' has lists"),
        ("time,load\n2,5\n1,6\n", "run backwards at row 2"),
        ("time,load\n1,5\n,6\n", "column 'time' has no time in row 2"),
        ("time,load\n2024-01-01,5\n2024-01-02,6\n", "for dates set timeFormat"),
        ("time,other\n1,5\n2,6\n", "no column 'load'"),
        ("when,load\n1,5\n2,6\n", "no column 'time'"),
        ({"time": [1, 2], "load": 5}, "column 'load' of the series is no list"),
        ({"time": [1, 2], "load": [5]}, "not of one length"),
        ("time,load\n1,5\n2\n", "row 2 of the series has 1 columns"),
        ("time,load\n1,5,7\n2,6,8\n", "row 1 of the series has 3 columns"),
        ("time,load\n1,\n2,\n", "column 'load' has no value"),
        ("time;load\n1;5\n2;6\n", "no column 'load'"),
        ("time,load\n" + "1,1\n" * 1001, "more than 1000 points (SERIES_MAX_POINTS)"),
    ],
)
def test_what_cannot_be_read_has_a_reason_for_good_that_quotes_nothing(data: Any, reason: str) -> None:
    with pytest.raises(UnreadableError) as error:
        read(data)
    assert error.value.is_permanent and "secret" not in str(error.value)
    assert reason in str(error.value)


def test_dates_of_another_format_and_files_of_no_text_have_a_reason() -> None:
    with pytest.raises(UnreadableError, match="column 'time' has no time in row 2: it is no time of the format"):
        read("time,load,flow\n1970-01-01 00:00,1,2\n01.01.1970,1,2\n", DATED)
    with pytest.raises(UnreadableError, match="not UTF-8"):
        read_series(b"\xff\xfe\x00", NUMBERED, 10)
