"""The only builder of region values. Regions carry no `id`: Label Studio's editor makes one, and two regions
with the same id would overwrite each other."""

from collections.abc import Mapping, Sequence
from typing import Any

Region = dict[str, Any]


def choices(from_name: str, to_name: str, values: Sequence[str]) -> Region:
    """https://labelstud.io/tags/choices: `values` as in the label config, aliases where it has them."""
    return {"from_name": from_name, "to_name": to_name, "type": "choices", "value": {"choices": list(values)}}


def taxonomy(from_name: str, to_name: str, paths: Sequence[Sequence[str]]) -> Region:
    """https://labelstud.io/tags/taxonomy: each path from the top, aliases where the label config has them."""
    value = {"taxonomy": [list(path) for path in paths]}
    return {"from_name": from_name, "to_name": to_name, "type": "taxonomy", "value": value}


def rating(from_name: str, to_name: str, stars: int) -> Region:
    """https://labelstud.io/tags/rating: a whole number from 1; 0 would be no rating."""
    return {"from_name": from_name, "to_name": to_name, "type": "rating", "value": {"rating": stars}}


def number(from_name: str, to_name: str, value: float) -> Region:
    """https://labelstud.io/tags/number"""
    return {"from_name": from_name, "to_name": to_name, "type": "number", "value": {"number": value}}


def pairwise(from_name: str, to_name: str, selected: str) -> Region:
    """https://labelstud.io/tags/pairwise: `left` or `right`. The editor writes the control tag's own name as
    `to_name`; the SDK's validation refuses that and wants an object's."""
    return {"from_name": from_name, "to_name": to_name, "type": "pairwise", "value": {"selected": selected}}


def ranker(from_name: str, to_name: str, order: Mapping[str, Sequence[str]]) -> Region:
    """https://labelstud.io/tags/ranker: ids of items by bucket; without buckets, by the control tag's name."""
    value = {bucket: list(ids) for bucket, ids in order.items()}
    return {"from_name": from_name, "to_name": to_name, "type": "ranker", "value": {"ranker": value}}


def labels(from_name: str, to_name: str, kind: str, place: Mapping[str, Any], values: Sequence[str]) -> Region:
    """https://labelstud.io/tags/labels: a part of a text.

    Args:
        kind: `labels`, `hypertextlabels` or `paragraphlabels`.
        place: from `lorabel.labeling.text_offsets`.
    """
    value = {**place, kind: list(values)}
    return {"from_name": from_name, "to_name": to_name, "type": kind, "value": value}
