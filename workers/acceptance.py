"""Decides whether a candidate is accepted, so that it becomes live.

The rule: with at least EVALUATE_MIN_TASKS held-out tasks, the candidate must be better than live on them in the
problem's primary metric. If both are equal, live stays. With fewer held-out tasks, one task more or less would
decide, so the run's new tasks count too. Live has not seen them. For the candidate, each is answered by a model
that was trained like the candidate, but without a third of the new tasks (cross-validation).
"""

from dataclasses import dataclass

from lorabel.evaluation.metrics import Metrics
from lorabel.settings import Settings


@dataclass(frozen=True)
class Judgement:
    """Whether the candidate is accepted, the reason as a sentence, and the metrics of both."""

    is_accepted: bool
    decision: str
    candidate: Metrics
    live: Metrics


def judge(candidate: Metrics, live: Metrics, held_out: int, settings: Settings) -> Judgement:
    """Accept the candidate if it is better than live. Where nothing can be learned, candidates tie with live.

    Args:
        held_out: the number of held-out tasks among those that were scored.
    """
    name = candidate.primary
    candidate_value, live_value = candidate.values[name], live.values[name]
    is_accepted = bool(candidate_value > live_value)
    if held_out >= settings.evaluate_min_tasks:
        basis = f"on {candidate.values['tasks']} held-out tasks"
    else:
        basis = (
            f"on {candidate.values['tasks']} tasks, new ones cross-validated "
            f"({held_out} held out, {settings.evaluate_min_tasks} needed to tell)"
        )
    verdict = "better than" if is_accepted else "no better than" if candidate_value == live_value else "worse than"
    decision = f"{name} {candidate_value:.3f} is {verdict} live's {live_value:.3f} {basis}"
    return Judgement(is_accepted, decision, candidate, live)
