"""Decides whether a candidate is accepted, so that it becomes live.

The rule: with at least EVALUATE_MIN_TASKS held-out tasks, the candidate must be better than live on them in the
problem's primary metric. If both are equal, live stays. With fewer held-out tasks, one task more or less would
decide, so the run's new tasks count too. Live has not seen them. For the candidate, each is answered by a model
that was trained like the candidate, but without a third of the new tasks (cross-validation).

A candidate beside a fitted head is always cross-validated against what answers now, and nothing is held out. It
is accepted if its log-loss is lower by more than the standard error of the difference, and its primary metric is
no lower.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lorabel.evaluation.metrics import Metrics
from lorabel.problems._label_scores import SMALLEST_PROBABILITY
from lorabel.problems.base import Problem
from lorabel.settings import Settings


@dataclass(frozen=True)
class Judgement:
    """Whether the candidate is accepted, the reason as a sentence, and the metrics of both.

    Attributes:
        is_surely_worse: whether the candidate's log-loss is higher by more than a standard error.
    """

    is_accepted: bool
    decision: str
    candidate: Metrics
    live: Metrics
    is_surely_worse: bool = False


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


def judge_beside_head(
    problem: Problem, targets: Sequence[Any], candidate: Sequence[Any], now: Sequence[Any], name: str
) -> Judgement:
    """Compare two lists of answers to the same tasks, each by a procedure that had not learned from the task.

    Args:
        candidate: the answers of the candidate's procedure.
        now: the answers of what answers now.
        name: of what answers now, for the decision: `the head` or `live`.
    """
    candidate_losses, losses_now = (log_losses(problem, targets, outputs) for outputs in (candidate, now))
    gains = losses_now - candidate_losses
    error = float(gains.std(ddof=1) / math.sqrt(len(gains))) if len(gains) > 1 else math.inf
    metrics, metrics_now = (
        _with_log_loss(problem.metrics(targets, outputs), losses)
        for outputs, losses in ((candidate, candidate_losses), (now, losses_now))
    )
    primary = metrics.primary
    value, value_now = metrics.values[primary], metrics_now.values[primary]
    gain = float(gains.mean())
    is_better, is_less_right = gain > error, value < value_now
    verdict = "better than" if is_better else "worse than" if gain < 0 else "not surely better than"
    decision = (
        f"log-loss {candidate_losses.mean():.3f} is {verdict} {name}'s {losses_now.mean():.3f} "
        f"(by {gain:.3f} +- {error:.3f}) on {len(targets)} tasks, cross-validated; "
        f"{primary} {value:.3f} against {value_now:.3f}"
        + (", which decides" if is_better and is_less_right else "")
    )
    return Judgement(
        is_better and not is_less_right, decision, metrics, metrics_now, is_surely_worse=gain < -error
    )


def log_losses(problem: Problem, targets: Sequence[Any], outputs: Sequence[Any]) -> NDArray[np.float64]:
    """Return (tasks,): minus the logarithm of the probability of the right answer, the mean over distributions."""
    losses = []
    for target, output in zip(targets, outputs, strict=True):
        right = [case.distribution[case.true_index] for case in problem.cases(output, target)]
        logs = [-math.log(max(probability, SMALLEST_PROBABILITY)) for probability in right]
        losses.append(sum(logs) / max(1, len(logs)))
    return np.array(losses)


def _with_log_loss(metrics: Metrics, losses: NDArray[np.float64]) -> Metrics:
    return replace(metrics, values={**metrics.values, "log_loss": float(losses.mean())})
