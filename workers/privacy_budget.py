"""Takes what a private fit or training run will spend from the budget of its project, before it begins.

A kill after that loses a part of the budget. The other way round, a release could be made that nothing counts.
"""

from collections.abc import Sequence

from lorabel.database import privacy_ledger, projects
from lorabel.database.store import Store
from lorabel.database.tables import PrivacyRelease
from lorabel.errors import LorabelError
from lorabel.settings import Settings
from workers.privacy_accounting import Mechanism, spent_epsilon


class PrivacyError(LorabelError):
    """Something cannot be learned with differential privacy, which is set."""


class OvertakenError(PrivacyError):
    """Another worker fits the same head."""


class BudgetSpentError(PrivacyError):
    """The privacy budget of a project is spent: nothing more can be learned from its annotations."""


def spend(
    store: Store,
    settings: Settings,
    project_id: int,
    from_name: str,
    mechanism: Mechanism,
    tasks: int,
    kind: str,
    labels: str = "",
    newest_id: int | None = None,
) -> PrivacyRelease:
    """Write a release into the ledger.

    Args:
        tasks, kind, labels: see `PrivacyRelease`.
        newest_id: of a head, the release of the fit before, as it was when this fit was found due; None if there
            was none.

    Raises:
        OvertakenError: there is a newer fit of the head.
        BudgetSpentError: the project would have spent more than DP_EPSILON.
        NotFoundError: the project was deleted.
    """
    budget = settings.dp_epsilon
    assert budget is not None
    with store.write() as session:
        # Two workers must not spend the same rest.
        projects.get(session, project_id, is_locked=True)
        rows = privacy_ledger.releases(session, project_id)
        newest = privacy_ledger.newest_fit(rows, from_name, labels)
        if kind == privacy_ledger.HEAD and newest_id != (None if newest is None else newest.id):
            raise OvertakenError(f"control tag {from_name!r} of project {project_id} is fitted by another worker")
        before = _mechanisms(rows)
        spent = spent_epsilon(before, settings.dp_delta)
        epsilon = spent_epsilon([*before, mechanism], settings.dp_delta)
        if epsilon > budget:
            raise BudgetSpentError(
                f"the privacy budget of project {project_id} is spent: epsilon {spent:.2f} of "
                f"{budget:g} after {len(rows)} releases, and this one would make it {epsilon:.2f}; what was "
                "learned stays as it is; a larger DP_EPSILON would allow more, with less privacy"
            )
        release = PrivacyRelease(
            project_id=project_id,
            from_name=from_name,
            kind=kind,
            labels=labels,
            tasks=tasks,
            noise_multiplier=mechanism.noise_multiplier,
            sample_rate=mechanism.sample_rate,
            steps=mechanism.steps,
            epsilon=epsilon,
            next_epsilon=spent_epsilon([*before, mechanism, mechanism], settings.dp_delta),
            delta=settings.dp_delta,
            budget=budget,
        )
        session.add(release)
    return release


def _mechanisms(rows: Sequence[PrivacyRelease]) -> list[Mechanism]:
    return [Mechanism(row.noise_multiplier, row.sample_rate, row.steps) for row in rows]
