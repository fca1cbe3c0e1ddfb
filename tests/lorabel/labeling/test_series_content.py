import json
from typing import Any

import pytest

from lorabel.content_formats import SeriesFormat
from lorabel.contracts import Content, MediaRef, Modality
from lorabel.errors import UnreadableError
from lorabel.labeling.label_config import ObjectTag, parse
from lorabel.labeling.series_content import series_content, series_format
from lorabel.labeling.task_content import NothingShownError

CHANNELS = '<Channel column="load"/><MultiChannel><Channel column="Flow"/><Channel column="load"/></MultiChannel>'


def tag(attributes: str) -> ObjectTag:
    config = parse(
        '<View><TimeSeriesLabels name="event" toName="ts"><Label value="Burst"/></TimeSeriesLabels>'
        f'<TimeSeries name="ts" value="$ts" {attributes}>{CHANNELS}</TimeSeries></View>'
    )
    return config.controls[0].objects[0]


def test_the_attributes_of_a_series_are_read_in_any_case() -> None:
    shown = series_format(tag('TIMECOLUMN="time" timeformat="%Y" sep="tab"'))
    assert shown == SeriesFormat(channels=("load", "Flow"), time_column="time", time_format="%Y", separator="tab")


def test_without_a_time_column_there_are_no_dates() -> None:
    assert series_format(tag('timeFormat="%Y"')).time_format == ""


@pytest.mark.parametrize("attributes", ["", 'valueType="url"'])
def test_a_series_is_a_file_unless_the_label_config_says_json(attributes: str) -> None:
    shown = series_content(tag(attributes), {"ts": "/data/a.csv"})
    assert shown == Content(
        modality=Modality.SERIES, media=MediaRef(url="/data/a.csv"), series_format=series_format(tag(attributes))
    )


def test_of_json_in_the_task_the_columns_of_the_channels_are_kept() -> None:
    table = {"time": [1], "LOAD": [2], "flow": [3], "other": [4]}
    shown = series_content(tag('valueType="json" timeColumn="time"'), {"ts": table})
    assert json.loads(shown.text or "") == {"time": [1], "LOAD": [2], "flow": [3]}


@pytest.mark.parametrize(
    ("attributes", "data", "reason"),
    [
        ("", {}, "no series under 'ts'"),
        ("", {"ts": ""}, "no series under 'ts'"),
        ("", {"ts": {"load": [1]}}, "an address"),
        ('valueType="json"', {"ts": "/data/a.csv"}, "an object with a list for each column"),
        ('valueType="json"', {"ts": {}}, "no series under 'ts'"),
    ],
)
def test_what_is_no_series_has_a_reason_for_good(attributes: str, data: dict[str, Any], reason: str) -> None:
    with pytest.raises(UnreadableError, match=reason) as error:
        series_content(tag(attributes), data)
    assert error.value.is_permanent
    assert isinstance(error.value, NothingShownError) == reason.startswith("no series")
