"""How texts and series are stored in files and in tasks. See `lorabel.contracts.Content`."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class TextFormat(BaseModel):
    """How a text is stored, so that `lorabel.media.text` can read it.

    The fields follow the attributes of Label Studio 1.23.2's `<Text>`, `<HyperText>` and `<Paragraphs>` tags, with
    the same defaults.

    Args:
        markup: `plain` text, `html`, or `paragraphs`: a list of dialogue turns in JSON.
        encoding: how the text is encoded in the task's data.
        name_key: paragraphs only: the key of the speaker's name in each turn.
        text_key: paragraphs only: the key of the spoken text in each turn.
    """

    model_config = ConfigDict(frozen=True)
    markup: Literal["plain", "html", "paragraphs"] = "plain"
    encoding: Literal["none", "base64", "base64unicode"] = "none"
    name_key: str = "author"
    text_key: str = "text"


class SeriesFormat(BaseModel):
    """How a series is stored, so that `lorabel.media.series` can read it.

    The fields follow the attributes of Label Studio 1.23.2's `<TimeSeries>` and `<Channel>` tags.

    Args:
        channels: the columns with values, by name or index.
        time_column: the column with times, by name or index. Empty if the index of a row is its time.
        time_format: how dates are written, see `lorabel.media.time_format`. Empty if times are numbers.
        separator: between the columns of a CSV file.
    """

    model_config = ConfigDict(frozen=True)
    channels: tuple[str, ...] = Field(min_length=1)
    time_column: str = ""
    time_format: str = ""
    separator: str = ","
