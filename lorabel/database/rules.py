"""The rules of a project: set, removed, and bound to the label config that it has now.

The file is kept as people wrote it, and read each time. Each change has a number, which is a part of the name
under which Label Studio stores predictions (`p12.v3.r2`): so the labeling stream asks for new ones, and bulk runs
replace those by earlier rules. Without rules the name is the one of before. A change also renews the project's
`updated_at`, by which every process sees at its next request that what it keeps in memory is old.
"""

import logging

from sqlalchemy import delete
from sqlalchemy.orm import Session

from lorabel.database import projects
from lorabel.database.store import Store
from lorabel.database.tables import Project, RuleEffect
from lorabel.errors import ConflictError, LabelConfigError, RulesError
from lorabel.labeling.label_config import LabelConfig, parse
from lorabel.labeling.rule_binding import bind_rules, require_fit
from lorabel.labeling.rule_file import RuleFile, read_rules
from lorabel.labeling.rules import NO_RULES, BoundRules

log = logging.getLogger(__name__)

FILE, NUMBER, FORMER = "file", "number", "former"


def file_of(project: Project) -> str | None:
    """The file as people wrote it; None if the project has no rules."""
    text: str | None = (project.rules or {}).get(FILE)
    return text


def former_of(project: Project) -> str | None:
    """The file of before the last change; None if there was none then."""
    text: str | None = (project.rules or {}).get(FORMER)
    return text


def number_of(project: Project) -> int:
    """How often the rules of the project were changed."""
    return int((project.rules or {}).get(NUMBER, 0))


def served_number(project: Project) -> int:
    """The number of the rules that predictions follow now; 0 for none."""
    return number_of(project) if file_of(project) else 0


def read_of(project: Project) -> RuleFile:
    """The project's rules; an empty file if it has none, or if they cannot be read any more."""
    try:
        return read_rules(file_of(project) or "")
    except RulesError:
        return RuleFile()


def bound(project: Project, config: LabelConfig) -> BoundRules:
    """The rules that predictions of a project follow. Those that do not fit its label config are logged."""
    rules = _bind(project, config)
    for fault in rules.faults:
        log.warning("project %d: a rule is not applied: %s", project.id, fault)
    return rules


def faults_of(project: Project) -> tuple[str, ...]:
    """Why rules of a project are not applied."""
    if file_of(project) is None or not project.label_config:
        return ()
    try:
        return _bind(project, parse(project.label_config)).faults
    except LabelConfigError as error:
        return (str(error),)


def _bind(project: Project, config: LabelConfig) -> BoundRules:
    text = file_of(project)
    if text is None:
        return NO_RULES
    try:
        return bind_rules(read_rules(text), config)
    except RulesError as error:
        return BoundRules(faults=(str(error),))


def check(session: Session, project_id: int, text: str) -> RuleFile:
    """Check a file against a project's label config.

    Raises:
        NotFoundError: no such project.
        ConflictError: its label config is not known yet.
        RulesError: the file cannot be read, does not fit the label config, or contradicts itself.
    """
    label_config = projects.get(session, project_id).label_config
    if label_config is None:
        raise ConflictError(f"the label config of project {project_id} is not known yet; open it in Label Studio")
    file = read_rules(text)
    require_fit(file, parse(label_config))
    return file


def set_file(store: Store, project_id: int, text: str, seen_number: int | None = None) -> Project:
    """Set a project's rules. The next prediction follows them; what earlier rules have removed is counted no more.

    Args:
        seen_number: of the rules that the writer has seen; None if that does not matter.

    Raises: as `check`, and ConflictError if somebody has changed the rules since; nothing is changed then.
    """
    # Others who write do not wait for the check. Rules that do not fit a label config that comes meanwhile are as
    # those that a later one leaves behind.
    with store.read() as session:
        check(session, project_id, text)
    with store.write() as session:
        return _change(session, project_id, text, seen_number)


def remove(store: Store, project_id: int, seen_number: int | None = None) -> Project:
    """Remove a project's rules.

    Args:
        seen_number: as for `set_file`.

    Raises:
        NotFoundError: no such project.
        ConflictError: as `set_file`.
    """
    with store.write() as session:
        return _change(session, project_id, None, seen_number)


def take_back(store: Store, project_id: int, seen_number: int | None = None) -> Project:
    """Take the last change of the rules back: those of before it are set, or removed if there were none.

    Args:
        seen_number: as for `set_file`.

    Raises: as `set_file`; ConflictError also if the rules were never changed.
    """
    with store.read() as session:
        project = projects.get(session, project_id)
    if not number_of(project):
        raise ConflictError(f"project {project_id} never had rules, so there is no change to take back")
    seen_number = number_of(project) if seen_number is None else seen_number
    former = former_of(project)
    if former is None:
        return remove(store, project_id, seen_number)
    return set_file(store, project_id, former, seen_number)


def _change(session: Session, project_id: int, text: str | None, seen_number: int | None) -> Project:
    project = projects.get(session, project_id, is_locked=True)
    if seen_number is not None and seen_number != number_of(project):
        raise ConflictError(
            f"somebody has changed the rules of project {project_id} meanwhile; read them, and change them again"
        )
    if file_of(project) != text:
        project.rules = {NUMBER: number_of(project) + 1, FILE: text, FORMER: file_of(project)}
        session.execute(delete(RuleEffect).where(RuleEffect.project_id == project_id))
        session.flush()
    return project
