"""The table of what differential privacy has cost. See `lorabel/database/privacy_ledger.py`."""

from datetime import UTC, datetime

from sqlalchemy.orm import Mapped, mapped_column

from lorabel.database.base_table import Table


class PrivacyRelease(Table):
    """A fit or a training run that was made with noise. Written before it begins.

    Attributes:
        kind: `head` or `adapter`.
        labels: digest of what the fitted head answers, see `ProjectHead.labels`; empty for adapters, and
            for heads that `lorabel forget` has deleted.
        tasks: how many annotated tasks it was made from.
        noise_multiplier: standard deviation of the noise, as a multiple of what one task can change.
        sample_rate: with which a task was in a sample, 1 for heads.
        steps: how many samples.
        epsilon: what the project has spent after it, with all releases before it, at `delta`.
        next_epsilon: what another release like this one would make of it.
        budget: DP_EPSILON of then.
    """

    __tablename__ = "privacy_release"
    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(index=True)
    from_name: Mapped[str]
    kind: Mapped[str]
    labels: Mapped[str]
    tasks: Mapped[int]
    noise_multiplier: Mapped[float]
    sample_rate: Mapped[float]
    steps: Mapped[int]
    epsilon: Mapped[float]
    next_epsilon: Mapped[float]
    delta: Mapped[float]
    budget: Mapped[float]
    made_at: Mapped[datetime] = mapped_column(default=lambda: datetime.now(UTC))
