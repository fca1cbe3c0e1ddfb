"""The part of a project's page about its rules, and about figures by group."""

from collections.abc import Sequence
from dataclasses import dataclass

from flask import request

from backend.services import services
from lorabel.database import projects, rule_effects, rules
from lorabel.database.rule_effects import RuleCount
from lorabel.evaluation.group_figures import Groups
from lorabel.evaluation.group_records import difference_text

MOST_DIFFERENCES = 10


@dataclass(frozen=True)
class Limits:
    """What this part of the page shows.

    Attributes:
        rules: each rule with what it has removed; none if the project has no rules.
        faults: why rules are not applied.
        field: of the tasks' data by which figures are grouped; "" before one was chosen.
        groups: None before a field was chosen.
        differences: which groups differ by more than chance, in words; the surest MOST_DIFFERENCES.
    """

    rules: Sequence[RuleCount]
    faults: Sequence[str]
    field: str
    groups: Groups | None
    differences: Sequence[str]


def read_limits(project_id: int) -> Limits:
    """Read what is shown. The URL's field `group` names the field of the tasks' data.

    Raises:
        NotFoundError: no such project.
        BadRequestError: no field can be named so.
    """
    field = request.args.get("group", "").strip()
    with services().store.read() as session:
        project = projects.get(session, project_id)
        counts = rule_effects.counts(session, project_id) if rules.file_of(project) else []
    groups = services().groups.get((project_id, field)) if field else None
    differences = (
        [difference_text(field, each) for each in groups.differences[:MOST_DIFFERENCES]] if groups else []
    )
    return Limits(counts, rules.faults_of(project), field, groups, differences)
