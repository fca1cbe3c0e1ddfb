"""The instructions of a project: those that annotators type into a prompt box, and the one that is kept.

An instruction is kept as the project's when its answers were submitted unchanged on KEPT_AFTER tasks. Then every
task is answered as it says, without anybody typing it. What people set by hand goes before it, over REST or in the
project's extra params.
"""

import hashlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from lorabel.database import projects
from lorabel.database.store import Store, id_chunks
from lorabel.database.tables import Project, TypedInstruction
from lorabel.errors import storable
from lorabel.problems.instructions import INSTRUCTION, WORDS

# Tasks on which the answer was submitted unchanged: one alone may have asked about something of that task only.
KEPT_AFTER = 2
# Typed instructions that a project remembers: the newest.
MOST_TYPED = 500
KEPT, BY_HAND = "kept", "by_hand"


class Submitted(NamedTuple):
    """An annotation that was submitted: its task, and its result as Label Studio sends it."""

    task_id: int | None
    result: Any


def note_typed(store: Store, project_id: int, task_id: int, from_name: str, instruction: str, result: Any) -> None:
    """Remember what was typed and what was answered, of which only a digest is kept.

    Args:
        from_name: control tag of the answer.
        result: the regions that were answered.
    """
    answer = _answer(result, from_name)
    if answer is None:
        return
    with store.write() as session:
        session.add(
            TypedInstruction(
                project_id=project_id,
                task_id=task_id,
                from_name=from_name,
                instruction=storable(instruction),
                answer_digest=_digest(answer),
            )
        )
        session.flush()
        of_project = TypedInstruction.project_id == project_id
        newest_first = select(TypedInstruction.id).where(of_project).order_by(TypedInstruction.id.desc())
        newest_old = session.scalar(newest_first.offset(MOST_TYPED).limit(1))
        if newest_old is not None:
            session.execute(delete(TypedInstruction).where(of_project, TypedInstruction.id <= newest_old))


def keep_accepted(session: Session, project: Project, submitted: Iterable[Submitted]) -> None:
    """Keep the instructions whose answers were now submitted unchanged, if it is on enough tasks.

    A task counts once, and as soon as one of its annotations has the answer: what comes later, from whomever, does
    not take that back. So it makes no difference which annotations arrive together. The caller has locked the
    project's row.
    """
    by_task: defaultdict[int, list[Any]] = defaultdict(list)
    for item in submitted:
        if item.task_id is not None:
            by_task[item.task_id].append(item.result)
    if not by_task:
        return
    of_project = TypedInstruction.project_id == project.id
    typed = select(TypedInstruction).where(of_project, TypedInstruction.task_id.in_(by_task))
    for row in session.scalars(typed.order_by(TypedInstruction.id)).all():
        answers = (_answer(result, row.from_name) for result in by_task[row.task_id])
        if row.answer_digest not in (_digest(answer) for answer in answers if answer is not None):
            continue
        row.is_accepted = True
        session.flush()
        accepted = select(func.count(TypedInstruction.task_id.distinct())).where(
            of_project,
            TypedInstruction.from_name == row.from_name,
            TypedInstruction.instruction == row.instruction,
            TypedInstruction.is_accepted.is_(True),
        )
        if (session.scalar(accepted) or 0) >= KEPT_AFTER:
            _set(project, KEPT, {row.from_name: row.instruction})


def forget_tasks(session: Session, project_id: int, task_ids: Collection[int]) -> None:
    """Delete what was typed on tasks that were deleted. An instruction that was kept stays."""
    for chunk in id_chunks(task_ids):
        of_tasks = TypedInstruction.project_id == project_id, TypedInstruction.task_id.in_(chunk)
        session.execute(delete(TypedInstruction).where(*of_tasks))


def forget_all(session: Session, project_id: int) -> None:
    """Delete what was typed in a project that was deleted."""
    session.execute(delete(TypedInstruction).where(TypedInstruction.project_id == project_id))


def set_by_hand(store: Store, project_id: int, instructions: Mapping[str, str | None]) -> Project:
    """Set what a model that writes is told, by control tag. None removes what was set, and what was kept.

    Raises:
        NotFoundError: no such project.
    """
    with store.write() as session:
        project = projects.get(session, project_id, is_locked=True)
        _set(project, BY_HAND, instructions)
        removed = [name for name, text in instructions.items() if text is None]
        _set(project, KEPT, dict.fromkeys(removed))
        # What was accepted before counts no more: else the next annotation would bring it back.
        of_removed = TypedInstruction.project_id == project.id, TypedInstruction.from_name.in_(removed)
        session.execute(delete(TypedInstruction).where(*of_removed))
        return project


def current(project: Project) -> dict[str, str]:
    """By control tag the instruction that people set by hand, else the one that was kept."""
    stored = project.instructions or {}
    return {**stored.get(KEPT, {}), **stored.get(BY_HAND, {})}


def parameters(project: Project) -> dict[str, Any]:
    """The project's extra params, with its instructions beside those that the extra params have, and its words."""
    extra = project.extra_params if isinstance(project.extra_params, dict) else {}
    extra = {**extra, WORDS: (project.instructions or {}).get(WORDS, {})}
    given = extra.get(INSTRUCTION)
    if isinstance(given, str) and given.strip():
        return extra
    return {**extra, INSTRUCTION: {**current(project), **(given if isinstance(given, dict) else {})}}


def _set(project: Project, kind: str, instructions: Mapping[str, str | None]) -> None:
    stored = project.instructions or {}
    changed = {**stored.get(kind, {}), **instructions}
    kept = {storable(name): storable(text) for name, text in changed.items() if text is not None and text.strip()}
    project.instructions = {**stored, kind: kept}


def _answer(result: Any, from_name: str) -> str | None:
    """The text in which a control tag was answered; None if it was not."""
    regions = result if isinstance(result, list) else []
    texts = [
        text.strip()
        for region in regions
        if isinstance(region, dict) and region.get("from_name") == from_name
        for text in _texts(region.get("value"))
    ]
    return "\n".join(texts) or None


def _texts(value: Any) -> list[str]:
    texts = value.get("text") if isinstance(value, dict) else None
    return [text for text in (texts if isinstance(texts, list) else [texts]) if isinstance(text, str)]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()
