"""An object tag and a task's data -> what a model reads: texts, and files to fetch.

`<Text value="$text"/>` and {"text": "It works."} make a text. Only this module knows which modality a tag has.
"""

import reprlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from lorabel.content_formats import TextFormat
from lorabel.contracts import Content, MediaRef, Modality
from lorabel.errors import UnreadableError
from lorabel.labeling.label_config import ObjectTag
from lorabel.media.html import ShownHtml, read_html
from lorabel.media.text import read_text

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
# What messages call a content.
WORDS: Mapping[Modality, str] = MappingProxyType(
    {Modality.TEXT: "text", Modality.IMAGE: "picture", Modality.VIDEO: "video", Modality.AUDIO: "sound"}
)
MARKUPS: Mapping[str, str] = MappingProxyType({"HyperText": "html", "Paragraphs": "paragraphs"})
# Attribute of the object tag -> field of `TextFormat`.
TEXT_FORMAT_ATTRIBUTES: Mapping[str, str] = MappingProxyType(
    {"encoding": "encoding", "nameKey": "name_key", "textKey": "text_key"}
)


class NothingShownError(UnreadableError):
    """A task has nothing of what an object tag shows."""


def contents(tag: ObjectTag, data: dict[str, Any]) -> tuple[Content, ...]:
    """What the object tag shows of a task: several contents for an image with a list of pictures, else one.

    Raises:
        NothingShownError: for good; the data has nothing of what the tag's value names.
        UnreadableError: for good; it is of a type that the tag cannot show.
    """
    modality = MODALITIES[tag.tag]
    value = tag.shown(data)
    is_list = tag.tag == "Image" and isinstance(value, list)
    is_nothing = not value.strip() if isinstance(value, str) else value == []
    error_type = NothingShownError if is_nothing else UnreadableError
    try:
        if is_list and not value:
            raise UnreadableError("the list is empty", is_permanent=True)
        return tuple(_content(tag, part) for part in (value if is_list else [value]))
    except UnreadableError as error:
        raise error_type(
            f"task data has no {WORDS[modality]} under {tag.data_key!r}, which the label config names for "
            f"{tag.name!r}: {error}",
            is_permanent=error.is_permanent,
        ) from error


def optional_contents(tag: ObjectTag, data: dict[str, Any]) -> tuple[Content, ...]:
    """What the object tag shows of a task; nothing if the task has nothing of it.

    Raises:
        UnreadableError: for good; see `contents`.
    """
    try:
        return contents(tag, data)
    except NothingShownError:
        return ()


def _content(tag: ObjectTag, value: Any) -> Content:
    modality = MODALITIES[tag.tag]
    if modality != Modality.TEXT:
        return Content(modality=modality, media=_file(value))
    if tag.attributes.get("valueType", "").lower() == "url":
        return Content(modality=modality, media=_file(value), text_format=_text_format(tag))
    return Content(modality=modality, text=read_text(value, _text_format(tag)))


def _file(value: Any) -> MediaRef:
    if not isinstance(value, str) or not value:
        raise UnreadableError(f"found {reprlib.repr(value)} where an address was expected", is_permanent=True)
    return MediaRef(url=value)


def _text_format(tag: ObjectTag) -> TextFormat:
    fields = {
        name: tag.attributes[attribute]
        for attribute, name in TEXT_FORMAT_ATTRIBUTES.items()
        if attribute in tag.attributes
    }
    try:
        return TextFormat.model_validate({"markup": MARKUPS.get(tag.tag, "plain"), **fields})
    except ValidationError as error:
        raise UnreadableError(
            f"{tag.tag} has {reprlib.repr(fields)}: {error.errors()[0]['msg']}", is_permanent=True
        ) from error


def list_items(tag: ObjectTag, data: dict[str, Any]) -> dict[str, tuple[Content, ...]]:
    """What each item of a `<List>` shows, by the item's id, in the order of the data.

    Label Studio turns ids into strings, so the ids are strings here, too.

    Raises:
        UnreadableError: for good; the data has no list of at least two items with different ids, or an item shows
            nothing.
    """
    value = tag.shown(data)
    items = value if isinstance(value, list) else []
    has_ids = all(isinstance(item, dict) and "id" in item for item in items)
    if len(items) < 2 or not has_ids or len({_id(item) for item in items}) < len(items):
        raise UnreadableError(
            f"task data has no list of at least two items with an id of its own each under {tag.data_key!r} "
            f"(found {reprlib.repr(value)}), which the label config names for {tag.name!r}",
            is_permanent=True,
        )
    return {_id(item): _item_contents(item, tag) for item in items}


def _id(item: dict[str, Any]) -> str:
    return str(item["id"])


def _item_contents(item: dict[str, Any], tag: ObjectTag) -> tuple[Content, ...]:
    """The pictures in the item's `html`, then one text: `title`, `body` and the text of `html`."""
    shown = _item_html(item, tag)
    texts = (str(item.get("title") or ""), str(item.get("body") or ""), shown.text)
    text = "\n".join(part.strip() for part in texts if part.strip())
    pictures = [Content(modality=Modality.IMAGE, media=MediaRef(url=url)) for url in shown.picture_urls]
    if not text and not pictures:
        raise UnreadableError(
            f"item {_id(item)[:80]!r} of {tag.name!r} shows neither text nor picture", is_permanent=True
        )
    return (*pictures, Content(modality=Modality.TEXT, text=text)) if text else tuple(pictures)


def _item_html(item: dict[str, Any], tag: ObjectTag) -> ShownHtml:
    try:
        return read_html(str(item.get("html") or ""))
    except UnreadableError as error:
        raise UnreadableError(
            f"the html of item {_id(item)[:80]!r} of {tag.name!r} cannot be read: {error}",
            is_permanent=error.is_permanent,
        ) from error
