"""What the differentially private fits and training runs of a project have spent of its budget.

The ledger is only added to: `lorabel forget` of a task or an annotator keeps it, since noise that was spent stays
spent, and only takes the labels out of it, so that heads are fitted again. It has no tasks, only their number.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from lorabel.database.tables import PrivacyRelease

HEAD, ADAPTER = "head", "adapter"
FORGOTTEN = ""
"""In place of a head's labels: the head was deleted."""
VERSION_PRIVACY = "privacy"
"""Key of `ModelVersion.metrics`: what the project had spent when the version was made, see `Spent`."""


@dataclass(frozen=True)
class Spent:
    """What a project has spent.

    Attributes:
        epsilon: with `delta`; an annotated task is protected by it. `budget`: DP_EPSILON of the newest release.
        heads, adapters: how many fits of heads and training runs have spent it.
        has_rest: whether another release like the newest would be within the budget of then.
        newest_at: when the newest of them began.
    """

    epsilon: float
    delta: float
    budget: float
    heads: int
    adapters: int
    has_rest: bool
    newest_at: datetime

    def as_json(self) -> dict[str, Any]:
        """What is noted with a version."""
        return {"epsilon": self.epsilon, "delta": self.delta, "budget": self.budget}


def spent(session: Session, project_id: int) -> Spent | None:
    """What a project has spent; None if nothing was made with noise."""
    rows = releases(session, project_id)
    if not rows:
        return None
    newest, heads = rows[-1], sum(row.kind == HEAD for row in rows)
    has_rest = newest.next_epsilon <= newest.budget
    return Spent(newest.epsilon, newest.delta, newest.budget, heads, len(rows) - heads, has_rest, newest.made_at)


def releases(session: Session, project_id: int) -> list[PrivacyRelease]:
    """All releases of a project, the oldest first."""
    query = select(PrivacyRelease).where(PrivacyRelease.project_id == project_id)
    return list(session.scalars(query.order_by(PrivacyRelease.id)))


def newest_fit(rows: Sequence[PrivacyRelease], from_name: str, labels: str) -> PrivacyRelease | None:
    """The newest fit of a control tag's head for such labels."""
    fits = (row for row in rows if (row.kind, row.from_name, row.labels) == (HEAD, from_name, labels))
    return max(fits, key=lambda row: row.id, default=None)


def forget_heads(session: Session, project_id: int) -> None:
    """Have the next fit of each head count as the first, since the heads of before are deleted."""
    of_heads = update(PrivacyRelease).where(PrivacyRelease.project_id == project_id, PrivacyRelease.kind == HEAD)
    session.execute(of_heads.values(labels=FORGOTTEN))
