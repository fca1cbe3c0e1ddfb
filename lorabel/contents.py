"""An object tag and a task's data -> what a model reads: a text, or a file to fetch.

`<Text value="$text"/>` and {"text": "It works."} make a text. Which modality a tag has is said here alone.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from lorabel.contracts import Content, Layout, MediaRef, Modality
from lorabel.errors import UnreadableError
from lorabel.label_config import ObjectTag
from lorabel.texts import read_text

MODALITIES: Mapping[str, Modality] = MappingProxyType(
    {
        "Image": Modality.IMAGE,
        "Text": Modality.TEXT,
        "HyperText": Modality.TEXT,
        "Paragraphs": Modality.TEXT,
        "Video": Modality.VIDEO,
        "Audio": Modality.AUDIO,
    }
)
WORDS: Mapping[Modality, str] = MappingProxyType(
    {Modality.TEXT: "text", Modality.IMAGE: "picture", Modality.VIDEO: "video", Modality.AUDIO: "sound"}
)
MARKUPS: Mapping[str, str] = MappingProxyType({"HyperText": "html", "Paragraphs": "paragraphs"})
LAYOUT: Mapping[str, str] = MappingProxyType(
    {"encoding": "encoding", "nameKey": "name_key", "textKey": "text_key"}
)


def content(tag: ObjectTag, data: dict[str, Any]) -> Content:
    """What the object tag shows of a task.

    Raises:
        UnreadableError: for good; the data lacks it.
    """
    modality = MODALITIES[tag.tag]
    value = data.get(tag.data_key)
    try:
        if modality != Modality.TEXT:
            return Content(modality=modality, media=_file(value))
        if tag.attributes.get("valueType", "").lower() == "url":
            return Content(modality=modality, media=_file(value), layout=_layout(tag))
        return Content(modality=modality, text=read_text(value, _layout(tag)))
    except UnreadableError as error:
        raise UnreadableError(
            f"task data has no {WORDS[modality]} under {tag.data_key!r}, which the label config names for "
            f"{tag.name!r}: {error}",
            is_permanent=True,
        ) from error


def _file(value: Any) -> MediaRef:
    if not isinstance(value, str) or not value:
        raise UnreadableError(f"found {value!r} where an address was expected", is_permanent=True)
    return MediaRef(url=value)


def _layout(tag: ObjectTag) -> Layout:
    named = {name: tag.attributes[attribute] for attribute, name in LAYOUT.items() if attribute in tag.attributes}
    try:
        return Layout.model_validate({"markup": MARKUPS.get(tag.tag, "plain"), **named})
    except ValidationError as error:
        raise UnreadableError(f"{tag.tag} has {named!r}: {error.errors()[0]['msg']}", is_permanent=True) from error
