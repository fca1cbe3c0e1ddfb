"""Scores candidate and live on the same tasks, and decides whether the candidate becomes live.

The rule: with at least EVALUATE_MIN_TASKS held-out tasks, the candidate must not be worse than live on them in
the problem's primary metric. With fewer held-out tasks, one task more or less would decide, so the run's new tasks
count too. Live has not seen them. For the candidate, each is answered by a model that was trained like the
candidate, but without a third of the new tasks (cross-validation).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lorabel.evaluation.metrics import Metrics
from lorabel.families.base import Family
from lorabel.families.cache import TEXTS, FeatureCache
from lorabel.problems.base import Problem
from lorabel.settings import Settings
from workers import lora
from workers.examples import PreparedExample

CACHE_BYTES = 64 * 1024 * 1024
FOLDS = 3


@dataclass(frozen=True)
class Judgement:
    """Whether the candidate is accepted, the reason as a sentence, and the metrics of both."""

    is_accepted: bool
    decision: str
    candidate: Metrics
    live: Metrics


def split_for_cross_validation(
    train: Sequence[PreparedExample],
) -> list[tuple[list[PreparedExample], list[PreparedExample]]]:
    """Up to FOLDS splits into (examples to train on, examples to test).

    Each new example is tested in exactly one split. Old examples are never tested, because live has learned them.
    """
    new = [example for example in train if example.training_example.is_new]
    splits = []
    for fold in range(min(FOLDS, len(new))):
        tested = new[fold::FOLDS]
        tested_identities = {id(example) for example in tested}
        splits.append(([example for example in train if id(example) not in tested_identities], tested))
    return splits


def predict(family: Family, examples: Sequence[PreparedExample], batch: int) -> list[Any]:
    """The family's outputs with the adapter that PEFT has active, one per example, `batch` examples at a time."""
    adapters, cache = lora.ActiveAdapter(family.module), FeatureCache({TEXTS: CACHE_BYTES})
    outputs: list[Any] = []
    for start in range(0, len(examples), batch):
        inputs = [example.model_input for example in examples[start : start + batch]]
        outputs += family.predict(inputs, [None] * len(inputs), adapters, cache)
    return outputs


def score(problem: Problem, family: Family, examples: Sequence[PreparedExample], batch: int) -> Metrics:
    """The metrics of the adapter that PEFT has active."""
    return compute_metrics(problem, examples, predict(family, examples, batch))


def compute_metrics(problem: Problem, examples: Sequence[PreparedExample], outputs: Sequence[Any]) -> Metrics:
    """The problem's metrics of `outputs`, one output per example."""
    return problem.metrics([example.target for example in examples], outputs)


def judge(candidate: Metrics, live: Metrics, held_out: int, settings: Settings) -> Judgement:
    """Accept the candidate if it is not worse than live: an equal candidate has learned from more examples.

    Args:
        held_out: the number of held-out tasks among those that were scored.
    """
    name = candidate.primary
    candidate_value, live_value = candidate.values[name], live.values[name]
    is_accepted = bool(candidate_value >= live_value)
    if held_out >= settings.evaluate_min_tasks:
        basis = f"on {candidate.values['tasks']} held-out tasks"
    else:
        basis = (
            f"on {candidate.values['tasks']} tasks, new ones cross-validated "
            f"({held_out} held out, {settings.evaluate_min_tasks} needed to tell)"
        )
    verdict = "not worse than" if is_accepted else "worse than"
    decision = f"{name} {candidate_value:.3f} is {verdict} live's {live_value:.3f} {basis}"
    return Judgement(is_accepted, decision, candidate, live)
