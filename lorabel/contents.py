"""An object tag and a task's data -> what a model reads: a text, or a file to fetch.

`<Text value="$text"/>` and {"text": "It works."} make a text. Which modality a tag has is said here alone.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from lorabel.contracts import Content, MediaRef, Modality
from lorabel.errors import UnreadableError
from lorabel.label_config import ObjectTag

MODALITIES: Mapping[str, Modality] = MappingProxyType(
    {"Image": Modality.IMAGE, "Text": Modality.TEXT, "Video": Modality.VIDEO, "Audio": Modality.AUDIO}
)
WORDS: Mapping[Modality, str] = MappingProxyType(
    {Modality.TEXT: "text", Modality.IMAGE: "picture", Modality.VIDEO: "video", Modality.AUDIO: "sound"}
)


def content(tag: ObjectTag, data: dict[str, Any]) -> Content:
    """What the object tag shows of a task.

    Raises:
        UnreadableError: for good; the data lacks it.
    """
    modality = MODALITIES[tag.tag]
    value = data.get(tag.data_key)
    if not isinstance(value, str) or not value:
        raise UnreadableError(
            f"task data has no {WORDS[modality]} under {tag.data_key!r} (found {value!r}), "
            f"which the label config names for {tag.name!r}",
            is_permanent=True,
        )
    if modality == Modality.TEXT:
        return Content(modality=modality, text=value)
    return Content(modality=modality, media=MediaRef(url=value))
