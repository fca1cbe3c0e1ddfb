"""What rules have removed from the newest predictions: written with each prediction, counted by rule and shown."""

import logging
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Select, delete, func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from lorabel.database import projects, rules
from lorabel.database.store import Store, id_chunks
from lorabel.database.tables import RuleEffect
from lorabel.database.versions import rules_number
from lorabel.errors import NotFoundError, storable
from lorabel.labeling.rules import Removal
from lorabel.redaction import Redactor

log = logging.getLogger(__name__)

# Removals of a rule that are kept of a task; all are counted.
MOST_KEPT = 20
MOST_SHOWN = 1000
LONGEST_WHAT, LONGEST_WHY = 80, 600


class RuleCount(NamedTuple):
    """A rule with what it has removed from the newest predictions of tasks.

    Attributes:
        kind: as the file of rules names it.
        tasks: from the predictions of how many tasks it has removed something.
        removals: how many labels, regions and texts these are.
    """

    rule: str
    kind: str
    tasks: int
    removals: int


def write(
    store: Store, redactor: Redactor, project_id: int, version: str, by_task: Mapping[int, Sequence[Removal]]
) -> None:
    """Store what was removed from predictions of tasks, in place of what was removed from earlier ones.

    A prediction is not lost if that cannot be stored: the log says so. What rules have removed that were changed
    meanwhile is not stored.

    Args:
        redactor: masks texts and reasons, which may have parts of tasks, before they are stored.
        version: of the predictions, with the number of their rules.
        by_task: task id -> what was removed; empty for nothing.
    """
    if not rules_number(version):
        return
    _log(project_id, by_task)
    try:
        _store(store, redactor, project_id, version, by_task)
    except NotFoundError:
        log.info("project %d was deleted, so what its rules have removed is not stored", project_id)
    except SQLAlchemyError:
        log.exception("project %d: what its rules have removed cannot be stored", project_id)


def _store(
    store: Store, redactor: Redactor, project_id: int, version: str, by_task: Mapping[int, Sequence[Removal]]
) -> None:
    known = {task_id for task_id, removals in by_task.items() if removals}
    with store.read() as session:
        for chunk in id_chunks(sorted(by_task.keys() - known)):
            known |= set(session.scalars(_task_ids(project_id, chunk)))
    if not known:
        return
    rows = [
        RuleEffect(
            project_id=project_id,
            task_id=task_id,
            rule=rule,
            version=version,
            count=len(removals),
            removals=[_kept(removal, redactor) for removal in removals[:MOST_KEPT]],
        )
        for task_id in sorted(known)
        for rule, removals in _by_rule(by_task[task_id]).items()
    ]
    with store.write() as session:
        # Locked, so that nobody changes the rules, or writes about the same tasks, meanwhile.
        if rules.served_number(projects.get(session, project_id, is_locked=True)) != rules_number(version):
            return
        forget_tasks(session, project_id, known)
        session.add_all(rows)


def _task_ids(project_id: int, task_ids: Collection[int]) -> Select[Any]:
    return select(RuleEffect.task_id).where(RuleEffect.project_id == project_id, RuleEffect.task_id.in_(task_ids))


def _kept(removal: Removal, redactor: Redactor) -> dict[str, str | bool]:
    """What is stored of a removal. It is masked before it is cut: a part of an address may not look like one."""
    what = redactor.masked_message(removal.what) if removal.is_text else removal.what
    return {
        "from_name": storable(removal.from_name),
        "what": storable(what[:LONGEST_WHAT]),
        "is_text": removal.is_text,
        "why": storable(redactor.masked_message(removal.why)[:LONGEST_WHY]),
    }


def _by_rule(removals: Sequence[Removal]) -> dict[str, list[Removal]]:
    by_rule: defaultdict[str, list[Removal]] = defaultdict(list)
    for removal in removals:
        by_rule[removal.rule].append(removal)
    return by_rule


def _log(project_id: int, by_task: Mapping[int, Sequence[Removal]]) -> None:
    """A line for each rule that has removed something from a task. Predicted texts are in no log."""
    for task_id, removals in by_task.items():
        for rule, of_rule in _by_rule(removals).items():
            names = [
                f"a text of {removal.from_name!r}"
                if removal.is_text
                else f"{removal.what[:LONGEST_WHAT]!r} of {removal.from_name!r}"
                for removal in of_rule[:MOST_KEPT]
            ]
            removed = ", ".join(dict.fromkeys(names))
            log.info(
                "project %d, task %d: rule %r removes %d: %s", project_id, task_id, rule, len(of_rule), removed
            )


def counts(session: Session, project_id: int) -> list[RuleCount]:
    """Every rule of a project with what it has removed since the rules were last changed."""
    query = (
        select(RuleEffect.rule, func.count(), func.sum(RuleEffect.count))
        .where(RuleEffect.project_id == project_id)
        .group_by(RuleEffect.rule)
    )
    by_rule = {rule: (tasks, removals) for rule, tasks, removals in session.execute(query)}
    file = rules.read_of(projects.get(session, project_id))
    return [RuleCount(rule.name, kind, *by_rule.get(rule.name, (0, 0))) for kind, rule in file.in_order]


def newest(session: Session, project_id: int, limit: int, task_id: int | None = None) -> list[RuleEffect]:
    """What was removed from predictions, the newest first.

    Args:
        task_id: of this task alone; None for all.
    """
    query = select(RuleEffect).where(RuleEffect.project_id == project_id)
    if task_id is not None:
        query = query.where(RuleEffect.task_id == task_id)
    newest_first = query.order_by(RuleEffect.predicted_at.desc(), RuleEffect.task_id, RuleEffect.rule)
    return list(session.scalars(newest_first.limit(min(limit, MOST_SHOWN))))


def forget_tasks(session: Session, project_id: int, task_ids: Collection[int]) -> None:
    """Delete what was removed from predictions of tasks, e.g. of tasks that were deleted."""
    for chunk in id_chunks(sorted(task_ids)):
        of_tasks = RuleEffect.project_id == project_id, RuleEffect.task_id.in_(chunk)
        session.execute(delete(RuleEffect).where(*of_tasks))


def forget_all(session: Session, project_id: int) -> None:
    """Delete what was removed from predictions of a project that was deleted."""
    session.execute(delete(RuleEffect).where(RuleEffect.project_id == project_id))
