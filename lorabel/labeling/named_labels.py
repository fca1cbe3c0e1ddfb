"""Which labels a result names, whatever its regions are."""

from collections import defaultdict
from collections.abc import Mapping, Sequence, Set
from typing import Any

from lorabel.labeling.explanation_tags import without_explanations


def named_labels(result: Sequence[Any] | None) -> Mapping[str, Set[str]]:
    """from_name -> the labels that regions of a control tag have. A tag without labels, as of texts, is missing.

    Args:
        result: as decoded from JSON, e.g. `[{"from_name": "label", "type": "choices", "value": {"choices":
            ["red"]}}]`. A taxonomy's label is its path: `animal / cat`. What is no region is skipped, and so are
            explanations.
    """
    labels: dict[str, set[str]] = defaultdict(set)
    for region in without_explanations(result or ()):
        if not isinstance(region, dict):
            continue
        kind, value, tag = region.get("type"), region.get("value"), region.get("from_name")
        if not (isinstance(kind, str) and isinstance(value, dict) and isinstance(tag, str)):
            continue
        if kind in ("choices", "taxonomy") or kind.endswith("labels"):
            names = value.get(kind)
            labels[tag] |= {name for item in names or () if (name := _name(item))} if _is_list(names) else set()
    return {tag: names for tag, names in labels.items() if names}


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


def _name(item: Any) -> str | None:
    if isinstance(item, str):
        return item
    return " / ".join(map(str, item)) if _is_list(item) else None
