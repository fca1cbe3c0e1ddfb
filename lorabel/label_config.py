"""Label config XML -> control tags and object tags, on the SDK's `LabelInterface`.

<View>
  <Image name="image" value="$image"/>
  <Choices name="label" toName="image"><Choice value="red"/><Choice value="blue" alias="b"/></Choices>
</View>
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from label_studio_sdk.label_interface import LabelInterface

from lorabel.errors import LabelConfigError


@dataclass(frozen=True)
class Label:
    """`value` is what stands in results (the alias, where there is one); `text` is what a person reads."""

    value: str
    text: str


@dataclass(frozen=True)
class ObjectTag:
    """`data_key` is the key in `task.data` (`$image` -> `image`)."""

    name: str
    tag: str
    data_key: str


@dataclass(frozen=True)
class ControlTag:
    name: str
    tag: str
    attributes: Mapping[str, str] = field(hash=False)
    labels: tuple[Label, ...]
    objects: tuple[ObjectTag, ...]


@dataclass(frozen=True)
class LabelConfig:
    controls: tuple[ControlTag, ...]
    _interface: Any = field(repr=False, hash=False, compare=False)

    def find_region_errors(self, region: dict[str, Any]) -> list[str]:
        """What the SDK finds wrong with one region of a result; an empty list if it is right."""
        is_valid, errors = self._interface.validate_region(region, return_errors=True), []
        if isinstance(is_valid, list):
            errors = [str(error) for error in is_valid]
        elif not is_valid:
            errors = [f"region {region!r} does not fit the label config"]
        return errors


@lru_cache(maxsize=512)
def parse(xml: str) -> LabelConfig:
    """Raises LabelConfigError with the parser's own words."""
    try:
        interface = LabelInterface(xml)
    except Exception as error:
        raise LabelConfigError(
            f"label config cannot be read: {error}; label config begins {xml[:80]!r}"
        ) from error
    controls = tuple(_control(tag) for tag in interface.controls or ())
    return LabelConfig(controls, interface)


def _control(tag: Any) -> ControlTag:
    objects = tuple(ObjectTag(o.name, o.tag, (o.value or "").lstrip("$")) for o in tag.objects or ())
    labels = tuple(
        Label(value, (tag.labels_attrs or {})[value].attr.get("value", value)) for value in tag.labels or ()
    )
    return ControlTag(tag.name, tag.tag, dict(tag.attr or {}), labels, objects)
