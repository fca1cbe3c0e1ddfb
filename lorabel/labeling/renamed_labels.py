"""Labels that were renamed in a label config: which label of now an annotation means by a name of then.

Label Studio 1.23.2 lets anybody rename a label that annotations have (`PATCH /api/projects/ID`), and leaves the
annotations as they are:

    <Choice value="crack"/> <Choice value="dent"/>   ->   <Choice value="cracks"/> <Choice value="dent"/>

Labels are the same if they have the same name in results (the alias, where there is one), or else the same title.
Of the others, a label that is gone was renamed to a new one if that stands in its place, between the same labels,
and has a similar title. A label of another place or of quite another title is a new label.
"""

from collections.abc import Iterable, Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any

from lorabel.labeling.label_config import RELATIONS_NAME, ControlTag, LabelConfig, path_of
from lorabel.labeling.regions import RELATION, Region

# A label's names in results from the top of its tree; of a choice, one name.
Path = tuple[str, ...]
# For each control tag pairs of paths, of then and of now, as lists so that they can be stored as JSON.
Renames = Mapping[str, Sequence[Sequence[Sequence[str]]]]

NO_RENAMES: Renames = {}
# Least part of two titles that is the same, by `difflib`: "scratched" and "scratch" have 0.88.
LEAST_LIKENESS = 0.6
# Most pairs of titles in one place that are compared: where more were changed, the list is another one.
MOST_COMPARED = 2500


def find_renames(before: LabelConfig, after: LabelConfig) -> dict[str, list[tuple[Path, Path]]]:
    """For each control tag that both label configs have the labels that were renamed: their paths then and now."""
    controls = {control.name: control for control in after.controls}
    renames = {}
    for old in before.controls:
        new = controls.get(old.name)
        if new is None or new.tag != old.tag:
            continue
        same = _same_labels(old, new)
        paths = [(path_of(old.labels, i), path_of(new.labels, k)) for i, k in sorted(same.items())]
        if changed := [(then, now) for then, now in paths if then != now]:
            renames[old.name] = changed
    return renames


def add_renames(
    known: Renames, new_renames: Mapping[str, Sequence[tuple[Path, Path]]], after: LabelConfig
) -> Renames:
    """What is known of former label configs, and what was found now: names of then -> names of now.

    A name that the label config has (again) means its own label.
    """
    current = {
        control.name: {path_of(control.labels, end) for end in range(len(control.labels))}
        for control in after.controls
    }
    renames: dict[str, list[list[list[str]]]] = {}
    for tag in sorted(known.keys() | new_renames.keys()):
        new = dict(new_renames.get(tag, ()))
        former = {tuple(then): tuple(now) for then, now in known.get(tag, ())}
        pairs = {then: new.get(now, now) for then, now in former.items()} | new
        kept = {then: now for then, now in pairs.items() if then not in current.get(tag, ())}
        if kept:
            renames[tag] = [[list(then), list(now)] for then, now in sorted(kept.items())]
    return renames


def with_current_names(regions: Sequence[Region], renames: Renames) -> list[Region]:
    """The regions of an annotation with the names that their labels have now."""
    names = {tag: {tuple(then): list(now) for then, now in pairs} for tag, pairs in renames.items()}
    return [_with_current_names(region, names.get(_tag_of(region), {})) for region in regions]


def _tag_of(region: Region) -> str:
    return RELATIONS_NAME if region.get("type") == RELATION else str(region.get("from_name"))


def _with_current_names(region: Region, names: Mapping[Path, list[str]]) -> Region:
    value, kind = region.get("value"), region.get("type")
    if names and kind == RELATION and isinstance(region.get("labels"), list):
        return {**region, "labels": [_current(label, names) for label in region["labels"]]}
    if not names or not isinstance(value, dict) or not isinstance(kind, str):
        return region
    answers = value.get(kind)
    if not isinstance(answers, list):
        return region
    return {**region, "value": {**value, kind: [_current(answer, names) for answer in answers]}}


def _current(answer: Any, names: Mapping[Path, list[str]]) -> Any:
    """A choice, or the path of a taxonomy, as it is called now. What is neither stays as it is."""
    if isinstance(answer, str):
        return names[(answer,)][-1] if (answer,) in names else answer
    if isinstance(answer, list) and all(isinstance(part, str) for part in answer):
        return names.get(tuple(answer), answer)
    return answer


def _same_labels(old: ControlTag, new: ControlTag) -> dict[int, int]:
    """Index of a label then -> its index now. Only below the same label labels can be the same."""
    same: dict[int, int] = {-1: -1}
    for parent, children in _by_parent(old).items():  # each parent comes before what is below it
        if parent in same:
            same |= _same_siblings(old, new, children, _by_parent(new).get(same[parent], []))
    del same[-1]
    return same


def _by_parent(control: ControlTag) -> dict[int, list[int]]:
    indices: dict[int, list[int]] = {}
    for index, label in enumerate(control.labels):
        indices.setdefault(label.parent, []).append(index)
    return indices


def _same_siblings(old: ControlTag, new: ControlTag, before: list[int], after: list[int]) -> dict[int, int]:
    same: dict[int, int] = {}
    for name in ("value", "title"):
        free = {getattr(new.labels[k], name): k for k in reversed(after) if k not in same.values()}
        for i in before:
            if i not in same and (k := free.pop(getattr(old.labels[i], name), None)) is not None:
                same[i] = k
    gaps = _gaps(after, {k: k for k in same.values()})
    for place, gone in _gaps(before, same).items():
        same |= _most_alike(old, new, gone, gaps.get(place, []))
    return same


def _gaps(siblings: Iterable[int], same: Mapping[int, int]) -> dict[tuple[int | None, int | None], list[int]]:
    """The labels that are not the same as any other, by place: between which labels of now they stand."""
    gaps: dict[tuple[int | None, int | None], list[int]] = {}
    left: int | None = None
    group: list[int] = []
    for index in siblings:
        if index in same:
            gaps[left, same[index]] = group
            left, group = same[index], []
        else:
            group.append(index)
    return gaps | {(left, None): group}


def _most_alike(old: ControlTag, new: ControlTag, gone: list[int], added: list[int]) -> dict[int, int]:
    """Pairs of a label that is gone and one that was added in its place, the most alike and nearest first."""
    if len(gone) * len(added) > MOST_COMPARED:
        return {}
    ranked = sorted(
        (-_likeness(old.labels[i].title, new.labels[k].title), abs(row - column), i, k)
        for row, i in enumerate(gone)
        for column, k in enumerate(added)
    )
    pairs: dict[int, int] = {}
    for unlikeness, _, i, k in ranked:
        if -unlikeness >= LEAST_LIKENESS and i not in pairs and k not in pairs.values():
            pairs[i] = k
    return pairs


def _likeness(name: str, other: str) -> float:
    return SequenceMatcher(None, name.casefold(), other.casefold(), autojunk=False).ratio()
