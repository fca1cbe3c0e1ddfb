"""Decides whether a candidate is accepted, so that it becomes live.

The rule: with at least EVALUATE_MIN_TASKS held-out tasks, the candidate must be better than live on them in the
problem's primary metric. If both are equal, live stays. With fewer held-out tasks, one task more or less would
decide, so the run's new tasks count too. Live has not seen them. For the candidate, each is answered by a model
that was trained like the candidate, but without a third of the new tasks (cross-validation).

A candidate beside a fitted head is always cross-validated against what answers now, and nothing is held out. It
is accepted if its log-loss is lower by more than STANDARD_ERRORS of the difference, and its primary metric is no
lower.
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
from workers.examples import PreparedExample

STANDARD_ERRORS = 2.0
"""With 1.0, one in six candidates without any gain would be accepted. Two such, of 30 runs, lost 0.005 and 0.0075
of accuracy (docs/learning.md)."""


@dataclass(frozen=True)
class Gain:
    """How much better a candidate is than other answers to the same tasks.

    Args:
        log_loss: how much lower it is, in nats.
        standard_error: of `log_loss`; infinite for a single task.
        metric: the name of the primary metric.
        value: how much higher the primary metric is.
    """

    log_loss: float
    standard_error: float
    metric: str
    value: float

    @property
    def is_sure(self) -> bool:
        """Whether the log-loss is lower by more than STANDARD_ERRORS."""
        return self.log_loss > STANDARD_ERRORS * self.standard_error

    def __str__(self) -> str:
        return f"log-loss {self.log_loss:.3f} +- {self.standard_error:.3f}, {self.metric} {self.value:+.3f}"


@dataclass(frozen=True)
class JudgedTask:
    """What candidate and live answered to a task of an evaluation, and what its annotators say."""

    task_id: int
    target: Any
    candidate: Any
    live: Any


@dataclass(frozen=True)
class Judgement:
    """Whether the candidate is accepted, the reason as a sentence, and the metrics of both.

    Attributes:
        is_surely_worse: whether the candidate's log-loss is higher by more than a standard error.
        over_head: what a candidate beside a fitted head gains over the head alone; None for all others.
        tested: the tasks that both were judged on.
    """

    is_accepted: bool
    decision: str
    candidate: Metrics
    live: Metrics
    is_surely_worse: bool = False
    over_head: Gain | None = None
    tested: Sequence[JudgedTask] = ()


def tested_tasks(
    examples: Sequence[PreparedExample], candidate: Sequence[Any], live: Sequence[Any]
) -> list[JudgedTask]:
    """The examples that were judged with the answers of both to each."""
    return [
        JudgedTask(example.training_example.task_id, example.target, *answers)
        for example, *answers in zip(examples, candidate, live, strict=True)
    ]


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
    problem: Problem,
    targets: Sequence[Any],
    candidate: Sequence[Any],
    now: Sequence[Any],
    head_alone: Sequence[Any] | None = None,
) -> Judgement:
    """Compare lists of answers to the same tasks, each by a procedure that had not learned from the task.

    Args:
        candidate: the answers of the candidate's procedure.
        now: the answers of what answers now.
        head_alone: the answers of the head without any adapter, where an adapter is live. None: these are `now`.
    """
    scored = _scored(problem, targets, candidate)
    scored_now = _scored(problem, targets, now)
    gain = _gain(scored, scored_now)
    is_less_right = gain.value < 0
    name = "the head" if head_alone is None else "live"
    verdict = "better than" if gain.is_sure else "worse than" if gain.log_loss < 0 else "not surely better than"
    decision = (
        f"log-loss {scored.losses.mean():.3f} is {verdict} {name}'s {scored_now.losses.mean():.3f} "
        f"(by {gain.log_loss:.3f} +- {gain.standard_error:.3f}) on {len(targets)} tasks, cross-validated; "
        f"{gain.metric} {scored.primary:.3f} against {scored_now.primary:.3f}"
        + (", which decides" if gain.is_sure and is_less_right else "")
    )
    over_head = gain
    if head_alone is not None:
        over_head = _gain(scored, _scored(problem, targets, head_alone))
        decision += f"; gain over the head alone: {over_head}"
    return Judgement(
        gain.is_sure and not is_less_right,
        decision,
        scored.metrics,
        scored_now.metrics,
        is_surely_worse=gain.log_loss < -gain.standard_error,
        over_head=over_head,
    )


@dataclass(frozen=True)
class _Scored:
    """Answers with their metrics.

    Args:
        losses: (tasks,): the log-loss of each.
    """

    metrics: Metrics
    losses: NDArray[np.float64]

    @property
    def primary(self) -> float:
        return float(self.metrics.values[self.metrics.primary])


def _scored(problem: Problem, targets: Sequence[Any], outputs: Sequence[Any]) -> _Scored:
    losses, metrics = log_losses(problem, targets, outputs), problem.metrics(targets, outputs)
    return _Scored(replace(metrics, values={**metrics.values, "log_loss": float(losses.mean())}), losses)


def _gain(candidate: _Scored, other: _Scored) -> Gain:
    gains = other.losses - candidate.losses
    error = float(gains.std(ddof=1) / math.sqrt(len(gains))) if len(gains) > 1 else math.inf
    value = candidate.primary - other.primary
    return Gain(float(gains.mean()), error, candidate.metrics.primary, value)


def log_losses(problem: Problem, targets: Sequence[Any], outputs: Sequence[Any]) -> NDArray[np.float64]:
    """Return (tasks,): minus the logarithm of the probability of the right answer, the mean over distributions."""
    losses = []
    for target, output in zip(targets, outputs, strict=True):
        right = [case.distribution[case.true_index] for case in problem.cases(output, target)]
        logs = [-math.log(max(probability, SMALLEST_PROBABILITY)) for probability in right]
        losses.append(sum(logs) / max(1, len(logs)))
    return np.array(losses)
