"""An object tag and a task's data -> what a model reads: a text, or a file to fetch.

`<Text value="$text"/>` and {"text": "It works."} make a text. Which modality a tag has is said here alone.
"""

from collections.abc import Mapping
from html.parser import HTMLParser
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from lorabel.contracts import Content, Layout, MediaRef, Modality
from lorabel.errors import UnreadableError
from lorabel.labeling.label_config import ObjectTag
from lorabel.media.text import html_text, read_text

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


class _Pictures(HTMLParser):
    """The addresses of the pictures in an item's `html`."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        source = dict(attrs).get("src")
        if tag == "img" and source:
            self.found.append(source)


def list_items(tag: ObjectTag, data: dict[str, Any]) -> dict[str, tuple[Content, ...]]:
    """By its id, which Label Studio always turns into a string, what each item shows; in the order of the data.

    Raises:
        UnreadableError: for good; it is no such list, or an item shows nothing.
    """
    found = data.get(tag.data_key)
    items = found if isinstance(found, list) else []
    has_ids = all(isinstance(item, dict) and "id" in item for item in items)
    if len(items) < 2 or not has_ids or len({_id(item) for item in items}) < len(items):
        raise UnreadableError(
            f"task data has no list of at least two items with an id of its own each under {tag.data_key!r} "
            f"(found {str(found)[:80]!r}), which the label config names for {tag.name!r}",
            is_permanent=True,
        )
    return {_id(item): _contents(item, tag) for item in items}


def _id(item: dict[str, Any]) -> str:
    return str(item["id"])


def _contents(item: dict[str, Any], tag: ObjectTag) -> tuple[Content, ...]:
    html = str(item.get("html") or "")
    shown = _Pictures()
    shown.feed(html)
    shown.close()
    texts = (str(item.get("title") or ""), str(item.get("body") or ""), html_text(html))
    text = "\n".join(part.strip() for part in texts if part.strip())
    pictures = [Content(modality=Modality.IMAGE, media=MediaRef(url=url)) for url in shown.found]
    if not text and not pictures:
        raise UnreadableError(
            f"item {_id(item)!r} of {tag.name!r} shows neither text nor picture", is_permanent=True
        )
    return (*pictures, Content(modality=Modality.TEXT, text=text)) if text else tuple(pictures)
