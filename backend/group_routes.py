"""REST route of figures by group: what annotators did with predictions, by a field of the tasks' data."""

from typing import Any

from flask import Blueprint, request

from backend.project_routes import PROJECT, as_json
from backend.rest_responses import Record
from backend.services import services
from lorabel.database import group_answers, projects
from lorabel.evaluation.group_figures import compare_groups
from lorabel.evaluation.group_records import groups_record

blueprint = Blueprint("groups", __name__, url_prefix="/api/v1")
Answer = dict[str, Any]


class ShareRecord(Record):
    """`right` of `cases`, with the interval of 95% from `low` to `high` (Wilson). `value` is null where there are
    too few cases to state it. `low` and `high` are null where several cases may be of one task."""

    value: float | None
    right: int
    cases: int
    low: float | None
    high: float | None


class GroupLabelRecord(Record):
    """A label in a group. `precision`: how often annotators kept it where it was predicted. `recall`: how often it
    was predicted where annotations have it; its `cases` are the support."""

    control_tag: str
    label: str
    precision: ShareRecord
    recall: ShareRecord


class GroupRecord(Record):
    """A group of tasks. `unchanged`: predictions that annotators submitted as they were. `precision` and `recall`
    are over all labels."""

    group: str
    tasks: int
    unchanged: ShareRecord
    precision: ShareRecord
    recall: ShareRecord
    labels: list[GroupLabelRecord]


class DifferenceRecord(Record):
    """A group that differs from the other `groups` together by more than chance: `p` is Fisher's exact
    probability, corrected for the number of comparisons (Holm). `measure`: `unchanged`, `precision` or
    `recall`."""

    group: str
    measure: str
    control_tag: str
    label: str
    in_group: ShareRecord
    in_others: ShareRecord
    p: float
    text: str


class GroupsRecord(Record):
    """Figures by the values of `field`, from predictions that annotators were shown, of each task the newest.
    `left_out`: smaller groups without figures. `comparisons`: how many were made to find `differences`."""

    field: str
    groups: list[GroupRecord]
    left_out: int
    comparisons: int
    differences: list[DifferenceRecord]


@blueprint.get(f"{PROJECT}/groups")
def show(project_id: int) -> Answer:
    """Show figures by group (`?field=country`)."""
    field = request.args.get("field", "")
    with services().store.read() as session:
        projects.get(session, project_id)
        shown = group_answers.shown_by_group(session, project_id, field)
    return as_json(GroupsRecord.model_validate(groups_record(field, compare_groups(shown))))
