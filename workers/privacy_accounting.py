"""How much noise a release gets, and what releases have spent together: Opacus's accountant, by Renyi differential
privacy (Mironov et al., https://arxiv.org/abs/1908.10530).

Two projects are neighbours if one of them has one annotated task more. How many tasks there are is not protected.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from lorabel.settings import Settings

ORDERS = (*(1 + step / 10 for step in range(1, 100)), *range(11, 64), 96, 128, 256, 512, 1024)


@dataclass(frozen=True)
class Mechanism:
    """A Gaussian mechanism on random samples of the tasks.

    Args:
        noise_multiplier: standard deviation of the noise, as a multiple of what one task can change.
        sample_rate: with which each task is in a sample; 1 for a fit.
        steps: how many samples.
    """

    noise_multiplier: float
    sample_rate: float = 1.0
    steps: int = 1


def noise_multiplier(settings: Settings, sample_rate: float = 1.0, steps: int = 1) -> float:
    """The noise with which DP_RELEASES mechanisms like this spend DP_EPSILON together, and not more."""
    # Opacus loads torch, which the light worker has no other use for.
    from opacus.accountants.utils import get_noise_multiplier

    assert settings.dp_epsilon is not None
    with _largest_order_allowed():
        return float(
            get_noise_multiplier(
                target_epsilon=settings.dp_epsilon,
                target_delta=settings.dp_delta,
                sample_rate=sample_rate,
                steps=steps * settings.dp_releases,
                accountant="rdp",
                alphas=ORDERS,
            )
        )


def spent_epsilon(mechanisms: Sequence[Mechanism], delta: float) -> float:
    """The epsilon that these mechanisms have spent together, each chosen after the results of those before it."""
    from opacus.accountants import RDPAccountant

    accountant = RDPAccountant()
    accountant.history = [
        (mechanism.noise_multiplier, mechanism.sample_rate, mechanism.steps) for mechanism in mechanisms
    ]
    with _largest_order_allowed():
        return float(accountant.get_epsilon(delta, alphas=ORDERS)) if mechanisms else 0.0


@contextmanager
def _largest_order_allowed() -> Iterator[None]:
    """Opacus warns that another order might give a tighter bound. The bound holds all the same."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Optimal order is the")
        yield
