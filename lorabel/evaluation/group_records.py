"""The figures of groups as JSON, for REST and `lorabel groups --json`."""

from typing import Any

from lorabel.evaluation.group_figures import Difference, GroupFigures, Groups, Share

Record = dict[str, Any]
LONGEST_SHOWN = 60


def groups_record(field: str, groups: Groups) -> Record:
    """All figures. A share is null where there are too few cases to state it."""
    return {
        "field": field,
        "groups": [_group(group) for group in groups.groups],
        "left_out": groups.left_out,
        "comparisons": groups.comparisons,
        "differences": [
            {
                **vars(difference),
                "in_group": _share(difference.in_group),
                "in_others": _share(difference.in_others),
            }
            | {"text": difference_text(field, difference)}
            for difference in groups.differences
        ],
    }


def shown_group(group: str) -> str:
    """A group's name as people read it: of a long one, the beginning and the end."""
    return group if len(group) <= LONGEST_SHOWN else f"{group[:39]}…{group[-20:]}"


def difference_text(field: str, difference: Difference) -> str:
    """A difference in words."""
    what = f"{difference.measure} of {difference.label!r}" if difference.label else "predictions left unchanged"
    return (
        f"{field} {shown_group(difference.group)!r}: {what} {_counted(difference.in_group)}, "
        f"elsewhere {_counted(difference.in_others)}, p = {difference.p:.2g}"
    )


def _counted(share: Share) -> str:
    return f"{share.right} of {share.cases} ({share.right / share.cases:.0%})"


def _group(group: GroupFigures) -> Record:
    return {
        "group": group.group,
        "tasks": group.unchanged.cases,
        "unchanged": _share(group.unchanged),
        "precision": _share(group.precision),
        "recall": _share(group.recall),
        "labels": [
            {
                "control_tag": figures.control_tag,
                "label": figures.label,
                "precision": _share(Share(figures.right, figures.predicted)),
                "recall": _share(Share(figures.right, figures.support)),
            }
            for figures in group.labels
        ],
    }


def _share(share: Share) -> Record:
    low, high = share.interval or (None, None)
    return {"value": share.value, "right": share.right, "cases": share.cases, "low": low, "high": high}
