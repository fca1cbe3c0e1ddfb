"""Whether two results say the same, such as a prediction and the annotation that a person made from it.

The editor writes a result anew when it is submitted, so equal statements differ in form. A prediction, and the
same submitted unchanged (Label Studio 1.23.2):

    {"from_name": "tags", "to_name": "text", "type": "choices", "value": {"choices": ["round", "red"]}}
    {"from_name": "tags", "to_name": "text", "type": "choices", "value": {"choices": ["red", "round"]},
     "id": "TjZtmwSAej", "origin": "prediction"}

What a result says is: which control tag says what about which object and which part of it, and which regions are
related. What it does not say:

- the order of regions, and of the choices, labels or taxonomy paths of a region. The order of a Ranker's items, of
  a TextArea's texts and of a polygon's points is a part of what it says;
- `id`, `origin`, `score`, and how the editor shows a region (`hidden`, `locked`, `parentID`, notes in `meta`);
- what explains it (`lorabel.labeling.explanation_tags`);
- that a region has no label: the editor leaves out an empty list of labels;
- labels of another region of the same group (equal `id`). The editor copies them into the value of a bare shape if
  the task is submitted before its picture has loaded;
- what follows from task and region: the size of the picture, the length of the sound or video, the text of a span,
  the XPaths of a span that has `globalOffsets`, a rotation or a channel of 0;
- the object of a Pairwise, for which the editor writes the control tag itself;
- differences of numbers by a millionth, since the editor calculates with positions.
"""

import json
import math
from collections.abc import Mapping, Sequence, Set
from typing import Any

from lorabel.labeling.explanation_tags import without_explanations
from lorabel.labeling.regions import RELATION, RIGHT

NUMBER_TOLERANCE = 1e-6
# Values that the editor writes where a prediction may leave them out.
DEFAULTS: Mapping[str, float] = {"rotation": 0, "channel": 0}
FOLLOWS_FROM_MEDIA = frozenset({"framesCount", "duration"})
XPATHS = frozenset({"start", "end", "startOffset", "endOffset"})
GLOBAL_OFFSETS = frozenset({"globalOffsets"})
# Where a relation has the ids of its regions.
ENDS = frozenset({"from_id", "to_id"})


def is_same_result(first: Sequence[Any], second: Sequence[Any]) -> bool:
    """Whether two results, each a list of regions and relations as decoded from JSON, say the same."""
    statements, others = _statements(first), _statements(second)
    if len(statements) != len(others):
        return False
    for statement in statements:
        # Both lists are sorted, so the same statement is almost always the next one.
        index = next((i for i, other in enumerate(others) if _is_same_statement(statement, other)), None)
        if index is None:
            return False
        del others[index]
    return True


def _statements(result: Sequence[Any]) -> list[Any]:
    """What the items of a result say, sorted. An item that names nothing says nothing."""
    result = without_explanations(result)
    items_by_id: dict[str, list[dict[str, Any]]] = {}
    for item in result:
        if isinstance(item, dict) and isinstance(item.get("id"), str):
            items_by_id.setdefault(item["id"], []).append(item)
    kinds_by_id = {name: _kinds(group) for name, group in items_by_id.items()}
    statements_by_id = {
        name: [_region_statement(item, kinds_by_id[name]) for item in group] for name, group in items_by_id.items()
    }
    statements = []
    for item in result:
        if not isinstance(item, dict):
            statements.append(item)
        elif item.get("type") == RELATION:
            statements.append(_relation_statement(item, statements_by_id))
        elif not _is_empty(item):
            statements.append(_region_statement(item, kinds_by_id.get(str(item.get("id")), frozenset())))
    return sorted(statements, key=_sort_key)


def _kinds(items: Sequence[dict[str, Any]]) -> frozenset[str]:
    """The types of regions, of which an annotation may have any value that JSON has."""
    return frozenset(kind for item in items if isinstance(kind := item.get("type"), str))


def _region_statement(item: dict[str, Any], kinds: Set[str]) -> dict[str, Any]:
    """What a region says.

    Args:
        kinds: the types of all regions with its id.
    """
    kind, value = item.get("type"), item.get("value")
    if isinstance(value, dict):
        value = _plain_value(
            {name: part for name, part in value.items() if name == kind or not _is_copied(name, kinds)}
        )
    return {
        "from_name": item.get("from_name"),
        "to_name": None if kind == "pairwise" else item.get("to_name"),
        "type": kind,
        "value": value,
    }


def _is_copied(name: str, kinds: Set[str]) -> bool:
    """Whether a part of a region's value, other than that of its own type, is that of a region of its group."""
    return name.endswith("labels") and name in kinds


def _relation_statement(item: dict[str, Any], statements_by_id: Mapping[Any, list[Any]]) -> dict[str, Any]:
    """A relation with what its two regions say in place of their ids, which the editor may change."""
    ends = {name: sorted(statements_by_id.get(str(item.get(name)), []), key=_sort_key) for name in ENDS}
    labels = item.get("labels")
    names = sorted(labels, key=_sort_key) if isinstance(labels, list) else []
    return {"type": RELATION, "direction": item.get("direction", RIGHT), "labels": names, **ends}


def _is_empty(item: dict[str, Any]) -> bool:
    kind, value = item.get("type"), item.get("value")
    return kind in ("choices", "taxonomy") and isinstance(value, dict) and value.get(kind) == []


def _plain_value(value: dict[str, Any]) -> dict[str, Any]:
    """The value of a region without what it does not say, and with what has no order in a fixed one."""
    plain = {}
    for name, part in value.items():
        is_default = name in DEFAULTS and not isinstance(part, bool) and part == DEFAULTS[name]
        is_text_of_span = name == "text" and isinstance(part, str) and "start" in value
        is_no_label = name.endswith("labels") and part == []  # the editor leaves it out
        if is_default or is_text_of_span or is_no_label or name in FOLLOWS_FROM_MEDIA:
            continue
        has_no_order = name in ("choices", "taxonomy") or name.endswith("labels")
        plain[name] = sorted(part, key=_sort_key) if has_no_order and isinstance(part, list) else part
    return plain


def _sort_key(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _is_same_statement(first: Any, second: Any) -> bool:
    """As `_is_same`, where regions of a page are compared by `globalOffsets` if both have them.

    So are the regions at the ends of relations.
    """
    if isinstance(first, dict) and isinstance(second, dict):
        if first.get("type") == second.get("type") == RELATION:
            return _is_same(_without(first, ENDS), _without(second, ENDS)) and all(
                len(first[end]) == len(second[end]) and all(map(_is_same_statement, first[end], second[end]))
                for end in ENDS
            )
        value, other = first.get("value"), second.get("value")
        if isinstance(value, dict) and isinstance(other, dict):
            left_out = XPATHS if "globalOffsets" in value and "globalOffsets" in other else GLOBAL_OFFSETS
            first = {**first, "value": _without(value, left_out)}
            second = {**second, "value": _without(other, left_out)}
    return _is_same(first, second)


def _without(value: dict[str, Any], names: frozenset[str]) -> dict[str, Any]:
    return {name: part for name, part in value.items() if name not in names}


def _is_same(first: Any, second: Any) -> bool:
    """Whether two JSON values are equal, numbers within NUMBER_TOLERANCE."""
    if isinstance(first, bool) or isinstance(second, bool):
        return first is second
    if isinstance(first, int | float) and isinstance(second, int | float):
        return math.isclose(first, second, rel_tol=NUMBER_TOLERANCE, abs_tol=NUMBER_TOLERANCE)
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(_is_same(part, second[name]) for name, part in first.items())
    if isinstance(first, list) and isinstance(second, list):
        return len(first) == len(second) and all(map(_is_same, first, second))
    return bool(first == second)
