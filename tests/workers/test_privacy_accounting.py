"""Noise and epsilon of Opacus's accountant, against the exact figures of the Gaussian mechanism."""

import math

import pytest
from scipy.optimize import brentq
from scipy.stats import norm

from lorabel.settings import Settings
from workers.privacy_accounting import Mechanism, noise_multiplier, spent_epsilon


def exact_epsilon(noise: float, delta: float) -> float:
    """Of one Gaussian mechanism: Balle and Wang, https://arxiv.org/abs/1805.06530, theorem 8."""

    def excess(epsilon: float) -> float:
        half, shift = 0.5 / noise, epsilon * noise
        return float(norm.cdf(half - shift) - math.exp(epsilon) * norm.cdf(-half - shift)) - delta

    return float(brentq(excess, 0.0, 100.0))


@pytest.mark.parametrize("epsilon", [0.5, 1.0, 3.0, 8.0])
@pytest.mark.parametrize("releases", [1, 4, 8])
def test_so_many_releases_fit_into_the_budget_and_no_more(epsilon: float, releases: int) -> None:
    """Mechanisms with the same noise together are one with less noise, whose epsilon is known exactly."""
    settings = Settings(dp_epsilon=epsilon, dp_releases=releases)
    mechanism = Mechanism(noise_multiplier(settings))
    spent = spent_epsilon([mechanism] * releases, settings.dp_delta)
    assert spent <= epsilon < spent_epsilon([mechanism] * (releases + 1), settings.dp_delta)
    exact = exact_epsilon(mechanism.noise_multiplier / math.sqrt(releases), settings.dp_delta)
    # Renyi differential privacy gives an upper bound, by no more than so much.
    assert exact <= spent <= 1.25 * exact


@pytest.mark.slow
def test_samples_need_less_noise_and_more_steps_need_more() -> None:
    settings = Settings(dp_epsilon=3.0)
    whole, sampled, longer = (noise_multiplier(settings, *how) for how in ((1.0, 20), (0.2, 20), (0.2, 60)))
    assert sampled < longer < whole
    mixed = [Mechanism(sampled, 0.2, 20), Mechanism(noise_multiplier(settings)), Mechanism(longer, 0.2, 60)]
    assert spent_epsilon(mixed, settings.dp_delta) <= 3.0
    assert spent_epsilon([], settings.dp_delta) == 0.0
