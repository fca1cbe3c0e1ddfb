"""The page of a project's rules: what they are, what each has removed, and how they are changed."""

from collections.abc import Sequence
from dataclasses import dataclass

from flask import request

from backend.pages.project import label_studio_url
from backend.services import Services
from lorabel.database import projects, rule_effects, rules
from lorabel.database.rule_effects import RuleCount
from lorabel.database.tables import Project, RuleEffect
from lorabel.errors import BadRequestError, ConflictError, LorabelError, RulesError
from lorabel.label_studio.access import task_link
from lorabel.labeling.rule_file import LONGEST_FILE
from lorabel.labeling.rule_lines import PlacedFault, place_faults

MOST_TASKS = 20


@dataclass(frozen=True)
class RemovedRow:
    """What a rule has removed from the newest prediction of a task. `link`: to the task in Label Studio."""

    effect: RuleEffect
    link: str | None


@dataclass(frozen=True)
class RulesPage:
    """What the page shows.

    Attributes:
        text: what stands in the editor.
        counts: each rule with what it has removed.
        unapplied: why rules are not applied, since the label config was changed.
        faults: of what was sent, with their lines; empty if nothing is wrong.
        is_fitting: whether what was sent was checked, and could be saved.
        removed: from which tasks something was removed, the newest first.
        former: the rules of before the last change; None if there were none.
    """

    project: Project
    title: str | None
    text: str
    counts: Sequence[RuleCount]
    unapplied: Sequence[str]
    faults: Sequence[PlacedFault]
    is_fitting: bool
    removed: Sequence[RemovedRow]
    former: str | None

    @property
    def number(self) -> int:
        """How often the rules were changed, to notice that somebody else has."""
        return rules.number_of(self.project)

    @property
    def has_rules(self) -> bool:
        """Whether the project has rules."""
        return rules.file_of(self.project) is not None


def read_rules_page(
    services: Services,
    project_id: int,
    text: str | None = None,
    faults: Sequence[PlacedFault] = (),
    *,
    is_fitting: bool = False,
) -> RulesPage:
    """Read what the page shows.

    Args:
        text: what was sent; None for the rules as they are.
        faults: of what was sent.
        is_fitting: whether what was sent could be saved.

    Raises:
        NotFoundError: no such project.
    """
    with services.store.read() as session:
        project = projects.get(session, project_id)
        counts = rule_effects.counts(session, project_id) if rules.file_of(project) else []
        effects = rule_effects.newest(session, project_id, MOST_TASKS)
    url = label_studio_url(services, project)
    return RulesPage(
        project,
        services.vitals.title(project_id),
        (rules.file_of(project) or "") if text is None else text,
        counts,
        rules.faults_of(project),
        faults,
        is_fitting,
        [RemovedRow(effect, url and task_link(project, url, effect.task_id)) for effect in effects],
        rules.former_of(project),
    )


def change_rules(services: Services, project_id: int) -> RulesPage | None:
    """Do what the form asks for: check, save, remove, or take the last change back.

    Returns:
        What the page shows, if nothing was changed; else None.

    Raises:
        NotFoundError: no such project.
        BadRequestError: the form is none of ours.
    """
    text = request.form.get("file", "").replace("\r\n", "\n").strip("\n")
    text = f"{text}\n" if text else ""
    action, seen = request.form.get("action", "save"), request.form.get("number", type=int)
    if seen is None:
        raise BadRequestError("the form lacks the number of the rules; open the page again")
    try:
        if action == "check":
            _check(services, project_id, text)
            return read_rules_page(services, project_id, text, is_fitting=True)
        if action == "take_back":
            text = rules.former_of(read_rules_page(services, project_id).project) or ""
            rules.take_back(services.store, project_id, seen)
        elif text:
            _check(services, project_id, text)
            rules.set_file(services.store, project_id, text, seen)
        else:
            rules.remove(services.store, project_id, seen)
    except (RulesError, ConflictError) as error:
        return read_rules_page(services, project_id, text, _faults(text, error))
    return None


def _check(services: Services, project_id: int, text: str) -> None:
    if len(text) > LONGEST_FILE or "\0" in text:
        raise RulesError(
            f"the rules have {len(text)} characters, expected at most {LONGEST_FILE}, none of them NUL"
        )
    with services.store.read() as session:
        rules.check(session, project_id, text)


def _faults(text: str, error: LorabelError) -> list[PlacedFault]:
    return place_faults(text, str(error).split("\n"))
