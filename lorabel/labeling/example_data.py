"""A label config -> the data of a task that has something for each of its object tags.

For where a question is needed and there is no task, such as to find out which model would answer. What addresses
and texts say has no meaning.
"""

from typing import Any

from lorabel.labeling.label_config import LabelConfig, ObjectTag
from lorabel.labeling.shown_value import VARIABLE

ADDRESS = "http://example.invalid/file"
TEXT = "text"
ITEMS = [{"id": "1", "title": TEXT}, {"id": "2", "title": TEXT}]


def example_data(config: LabelConfig) -> dict[str, Any]:
    """Return data in which each object tag finds something of its type; a text where a tag has any other type."""
    tags = dict.fromkeys(tag for control in config.controls for tag in (*control.objects, *control.context))
    return {
        name.removeprefix("$"): _example(tag) if name == tag.value else TEXT
        for tag in tags
        for name in VARIABLE.findall(tag.value)
    }


def _example(tag: ObjectTag) -> Any:
    is_address = tag.attributes.get("valueType", "").lower() == "url"
    match tag.tag:
        case "Image":
            return [ADDRESS] if "valueList" in tag.attributes else ADDRESS
        case "Audio" | "Video":
            return ADDRESS
        case "List":
            return ITEMS
        case "TimeSeries":
            columns = (*tag.channels, tag.attributes.get("timeColumn", ""))
            is_json = tag.attributes.get("valueType", "url").lower() == "json"
            return {name: [0.0] for name in columns if name} if is_json else ADDRESS
        case "Paragraphs" if not is_address:
            keys = (tag.attributes.get("nameKey", "author"), tag.attributes.get("textKey", "text"))
            return [dict.fromkeys(keys, TEXT)]
        case "Chat":
            return []
        case _:
            return ADDRESS if is_address else TEXT
