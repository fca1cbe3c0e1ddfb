"""How often annotators accepted what they were shown: counted before the answer was learned, so never too high.

In the field's words, prequential accuracy (test, then train).
"""

from collections import Counter
from typing import Any, NamedTuple

from sqlalchemy import Select, case, func, select
from sqlalchemy.orm import Session

from lorabel.database.tables import Annotation, version_name
from lorabel.database.versions import without_heads


class Shown(NamedTuple):
    """Predictions of a version that annotators were shown, and how many of them they submitted unchanged."""

    shown: int = 0
    accepted: int = 0


def by_version(session: Session, project_id: int) -> dict[str, Shown]:
    """Name of a version, such as `p12.v3` -> what annotators did with its predictions, whatever head was theirs.

    Annotations whose prediction Label Studio has not told, and skipped tasks, do not count.
    """
    shown: Counter[str] = Counter()
    accepted: Counter[str] = Counter()
    for name, shown_count, accepted_count in session.execute(_counts(project_id)):
        shown[without_heads(name)] += shown_count
        accepted[without_heads(name)] += accepted_count
    return {name: Shown(shown[name], accepted[name]) for name in shown}


def by_base_models(session: Session, project_id: int) -> Shown:
    """As `by_version`, of predictions that the base models made alone, without adapters and fitted heads."""
    name, version = version_name(project_id, 0), Annotation.prediction_version
    is_base = (version == name) | version.startswith(f"{name}.r", autoescape=True)
    rows = session.execute(_counts(project_id).where(is_base)).all()
    return Shown(sum(row[1] for row in rows), sum(row[2] for row in rows))


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
