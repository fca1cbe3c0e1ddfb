"""How often annotators accepted what they were shown: counted before the answer was learned, so never too high.

In the field's words, prequential accuracy (test, then train).
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any, NamedTuple

from sqlalchemy import Select, case, func, select
from sqlalchemy.orm import Session

from lorabel.database.tables import Annotation, version_name
from lorabel.database.versions import without_heads


class Shown(NamedTuple):
    """Predictions of a version that annotators were shown, and how many of them they submitted unchanged."""

    shown: int = 0
    accepted: int = 0


class ShownInProject(NamedTuple):
    """What annotators did with the predictions that they were shown.

    Attributes:
        by_version: name of a version, such as `p12.v3` -> with its predictions, whatever head was theirs.
        base: with those that the base models made alone, without adapters and fitted heads.
    """

    by_version: dict[str, Shown]
    base: Shown


def read(session: Session, project_id: int) -> ShownInProject:
    """Count the shown predictions of a project.

    Annotations whose prediction Label Studio has not told, and skipped tasks, do not count.
    """
    base = version_name(project_id, 0)
    of_version: defaultdict[str, list[Shown]] = defaultdict(list)
    of_base = []
    for name, *counts in session.execute(_counts(project_id)):
        of_version[without_heads(name)].append(Shown(*counts))
        if name == base or name.startswith(f"{base}.r"):
            of_base.append(Shown(*counts))
    return ShownInProject({name: _sum(each) for name, each in of_version.items()}, _sum(of_base))


def by_version(session: Session, project_id: int) -> dict[str, Shown]:
    """See `ShownInProject`."""
    return read(session, project_id).by_version


def _sum(each: Iterable[Shown]) -> Shown:
    return Shown(*map(sum, zip(Shown(), *each, strict=True)))


def _counts(project_id: int) -> Select[str | None, int, Any]:
    """The name of a prediction's version, how many predictions were shown, and how many were accepted."""
    return (
        select(
            Annotation.prediction_version,
            func.count(),
            func.sum(case((Annotation.is_accepted.is_(True), 1), else_=0)),
        )
        .where(
            Annotation.project_id == project_id,
            Annotation.is_deleted.is_(False),
            Annotation.is_accepted.is_not(None),
            Annotation.prediction_version.is_not(None),
        )
        .group_by(Annotation.prediction_version)
    )
