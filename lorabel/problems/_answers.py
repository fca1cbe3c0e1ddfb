"""Reads the answers to a control tag from an annotation's result.

Label Studio stores and imports results without checking them, so any part of a result may be null or of another
type than the editor writes: {"from_name": "label", "type": "choices", "value": {"choices": null}}.
"""

from collections.abc import Sequence
from typing import Any

from lorabel.errors import MissingTargetError
from lorabel.labeling.explanation_tags import without_explanations
from lorabel.labeling.label_config import Label, find_label
from lorabel.labeling.regions import Region

LONGEST_SHOWN = 120


def regions_of(result: Any) -> list[Region]:
    """Return the regions of a result without explanations; none if the result is null.

    Raises:
        MissingTargetError: the result is not a list of objects whose `from_name` is a text or missing.
    """
    regions = [] if result is None else result
    is_list = isinstance(regions, list) and all(isinstance(region, dict) for region in regions)
    if not is_list or not all(isinstance(region.get("from_name"), str | None) for region in regions):
        raise MissingTargetError(f"the annotation's result is {shown(result)}, expected a list of regions")
    return without_explanations(regions)


def values_of(result: Sequence[Region], from_name: str) -> list[dict[str, Any]]:
    """Return the `value` of each region of a control tag, in the order of the result.

    Raises:
        MissingTargetError: the result is no list of regions, or a value of the control tag is no object.
    """
    values = [region.get("value", {}) for region in regions_of(result) if region.get("from_name") == from_name]
    for value in values:
        if not isinstance(value, dict):
            raise MissingTargetError(f"{from_name!r} has the value {shown(value)}, expected an object")
    return values


def list_in(value: dict[str, Any], key: str, from_name: str) -> list[Any]:
    """Return the list under a key of a control tag's value; an empty list if the key is missing.

    Raises:
        MissingTargetError: there is something else than a list under the key.
    """
    entries = value.get(key, [])
    if not isinstance(entries, list):
        raise MissingTargetError(f"{from_name!r} was answered {shown(value)}, expected a list under {key!r}")
    return entries


def known_labels(labels: Sequence[Label], names: Sequence[Any], from_name: str) -> tuple[list[int], list[str]]:
    """Return the labels that a region was given, as indices, and why other names mean none.

    Args:
        names: as the region has them; they may be of any type.
    """
    indices = [find_label(labels, name) if isinstance(name, str) else None for name in names]
    unknown = [name for name, index in zip(names, indices, strict=True) if index is None]
    reasons = [f"{from_name!r} was answered {shown(unknown)}, which the label config no longer has"]
    known = dict.fromkeys(index for index in indices if index is not None)
    return list(known), reasons if unknown else []


def shown(value: Any) -> str:
    """Return a value for a message, cut to LONGEST_SHOWN characters."""
    text = repr(value)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."
