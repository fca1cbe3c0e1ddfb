"""A `<List>` and a task's data -> the contents of each item, as its annotators see them.

{"items": [{"id": "blog", "title": "Ten tips", "body": "There is"}, {"id": 7, "html": "<img src='/chair.png'/>"}]}
"""

from html.parser import HTMLParser
from typing import Any

from lorabel.contracts import Content, MediaRef, Modality
from lorabel.errors import UnreadableError
from lorabel.label_config import ObjectTag
from lorabel.texts import html_text


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
