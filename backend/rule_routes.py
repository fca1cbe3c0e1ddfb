"""REST routes of a project's rules: what limits its predictions, and what was removed from them."""

from datetime import datetime
from typing import Annotated, Any

from flask import Blueprint, request
from pydantic import Field

from backend import http_bodies
from backend.http_bodies import Body, read_body
from backend.project_routes import PROJECT, as_json, read_number
from backend.rest_responses import Record
from backend.services import services
from lorabel.database import projects, rule_effects, rules
from lorabel.database.tables import Project
from lorabel.labeling.rule_file import LONGEST_FILE

blueprint = Blueprint("rules", __name__, url_prefix="/api/v1")
RULES = f"{PROJECT}/rules"
DEFAULT_TASKS = 20
Answer = dict[str, Any]


class SetRules(Body):
    """Body of `PUT .../rules`. `file`: the rules in TOML, see docs/rules.md."""

    file: Annotated[str, Field(max_length=LONGEST_FILE)]


class RuleCountRecord(Record):
    """A rule of the kind `kind`: from the newest predictions of how many `tasks` it has removed something, and how
    many labels, regions and texts (`removals`)."""

    rule: str
    kind: str
    tasks: int
    removals: int


class RemovalRecord(Record):
    """What a rule has removed: `what` is a label, a text (`is_text`), or else the type of a region."""

    from_name: str
    what: str
    is_text: bool
    why: str


class RuleEffectRecord(Record):
    """What a rule has removed from the newest prediction of a task, which has the version `version`. `removals`
    has the first of `count`."""

    task_id: int
    rule: str
    version: str
    count: int
    removals: list[RemovalRecord]
    predicted_at: datetime


class RulesRecord(Record):
    """The rules of a project. `file`: in TOML; null for none. `number`: how often they were changed; it is a part
    of the version of predictions. `faults`: why rules are not applied, since the label config was changed.
    `tasks`: the newest tasks from whose predictions something was removed."""

    file: str | None
    number: int
    rules: list[RuleCountRecord]
    faults: list[str]
    tasks: list[RuleEffectRecord]


@blueprint.get(RULES)
def show(project_id: int) -> Answer:
    """Show the rules of a project, and what they have removed (`?limit=20&task=ID`)."""
    limit = read_number("limit", DEFAULT_TASKS, rule_effects.MOST_SHOWN)
    task_id = read_number("task", 0, http_bodies.LARGEST_BIG_ID) if "task" in request.args else None
    with services().store.read() as session:
        project = projects.get(session, project_id)
    return _answer(project, limit, task_id)


@blueprint.put(RULES)
def change(project_id: int) -> Answer:
    """Set the rules of a project. The next prediction follows them."""
    body = http_bodies.parse(SetRules, read_body())
    return _answer(rules.set_file(services().store, project_id, body.file), 0)


@blueprint.delete(RULES)
def remove(project_id: int) -> Answer:
    """Remove the rules of a project."""
    return _answer(rules.remove(services().store, project_id), 0)


def _answer(project: Project, limit: int, task_id: int | None = None) -> Answer:
    with services().store.read() as session:
        counts = rule_effects.counts(session, project.id)
        effects = rule_effects.newest(session, project.id, limit, task_id)
    record = RulesRecord(
        file=rules.file_of(project),
        number=rules.number_of(project),
        rules=[RuleCountRecord(**count._asdict()) for count in counts],
        faults=list(rules.faults_of(project)),
        tasks=[RuleEffectRecord.model_validate(effect) for effect in effects],
    )
    return as_json(record)
