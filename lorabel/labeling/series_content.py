"""A `<TimeSeries>` and a task's data -> the series as a content: a file to fetch, or JSON in the task.

    <TimeSeries name="ts" value="$csv" timeColumn="time" timeFormat="%Y-%m-%d">
      <Channel column="load"/>
    </TimeSeries>

Attributes and their defaults are those of Label Studio 1.23.2's editor
(libs/editor/src/tags/object/TimeSeries.jsx).
"""

import json
import reprlib
from typing import Any

from lorabel.content_formats import SeriesFormat
from lorabel.contracts import Content, MediaRef, Modality
from lorabel.errors import UnreadableError
from lorabel.labeling.label_config import ObjectTag
from lorabel.labeling.task_content import NothingShownError


def series_format(tag: ObjectTag) -> SeriesFormat:
    """Return how the series of a `<TimeSeries>` are stored. It has at least one channel.

    Without a time column the editor reads no dates, whatever `timeFormat` says.
    """
    time_column = tag.attributes.get("timeColumn", "")
    time_format = tag.attributes.get("timeFormat", "") if time_column else ""
    separator = tag.attributes.get("sep", ",")
    return SeriesFormat(
        channels=tag.channels, time_column=time_column, time_format=time_format, separator=separator
    )


def series_content(tag: ObjectTag, data: dict[str, Any]) -> Content:
    """What a `<TimeSeries>` shows of a task.

    Raises:
        NothingShownError: for good; the data has nothing of what the tag's value names.
        UnreadableError: for good; it is of a type that the tag cannot show.
    """
    is_json = tag.attributes.get("valueType", "url").lower() == "json"
    value = tag.shown(data)
    if value in ("", {}):
        raise NothingShownError(
            f"task data has no series under {tag.data_key!r}, which the label config names for {tag.name!r}",
            is_permanent=True,
        )
    if is_json and isinstance(value, dict):
        return Content(modality=Modality.SERIES, text=_columns(tag, value), series_format=series_format(tag))
    if not is_json and isinstance(value, str):
        return Content(modality=Modality.SERIES, media=MediaRef(url=value), series_format=series_format(tag))
    expected = "an object with a list for each column" if is_json else 'an address (or set valueType="json")'
    raise UnreadableError(
        f"task data has {reprlib.repr(value)} under {tag.data_key!r} for {tag.name!r}, where {expected} was "
        "expected",
        is_permanent=True,
    )


def _columns(tag: ObjectTag, value: dict[str, Any]) -> str:
    """The columns that are read, in JSON; all of them if one is named by its index."""
    wanted = {name.lower() for name in (*tag.channels, tag.attributes.get("timeColumn", "")) if name}
    is_index = any(name.isdecimal() for name in wanted)
    return json.dumps({name: column for name, column in value.items() if is_index or name.lower() in wanted})
