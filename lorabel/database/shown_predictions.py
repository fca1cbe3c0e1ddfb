"""How often annotators accepted what they were shown: counted before the answer was learned, so never too high.

In the field's words, prequential accuracy (test, then train).
"""

from collections import Counter
from typing import NamedTuple

from sqlalchemy import case, func, select
from sqlalchemy.orm import Session

from lorabel.database.tables import Annotation
from lorabel.database.versions import without_heads


class Shown(NamedTuple):
    """Predictions of a version that annotators were shown, and how many of them they submitted unchanged."""

    shown: int = 0
    accepted: int = 0


def by_version(session: Session, project_id: int) -> dict[str, Shown]:
    """Name of a version, such as `p12.v3` -> what annotators did with its predictions, whatever head was theirs.

    Annotations whose prediction Label Studio has not told, and skipped tasks, do not count.
    """
    query = (
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
    shown: Counter[str] = Counter()
    accepted: Counter[str] = Counter()
    for name, shown_count, accepted_count in session.execute(query):
        shown[without_heads(name)] += shown_count
        accepted[without_heads(name)] += accepted_count
    return {name: Shown(shown[name], accepted[name]) for name in shown}
