"""Candidate against live on the same held-out tasks: which one serves from now on?

The rule: with at least EVALUATE_MIN_TASKS held-out tasks, the candidate must not be worse than live on them in
the problem's primary figure. With fewer, a task more or less decides nothing, so the new tasks of the run count
too. Live has not seen them, and for the candidate each is answered by a model that was trained like it without a
third of them (cross-validation).
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
from workers.examples import Example

MEMO_BYTES = 64 * 1024 * 1024
FOLDS = 3


@dataclass(frozen=True)
class Judgement:
    is_accepted: bool
    decision: str
    candidate: Metrics
    live: Metrics


def folds(train: Sequence[Example]) -> list[tuple[list[Example], list[Example]]]:
    """Splits of what a run takes into what to train on and new examples to be tested on; each of those once."""
    new = [example for example in train if example.lesson.is_new]
    found = []
    for place in range(min(FOLDS, len(new))):
        tested = new[place::FOLDS]
        chosen = {id(example) for example in tested}
        found.append(([example for example in train if id(example) not in chosen], tested))
    return found


def answer(family: Family, examples: Sequence[Example], batch: int) -> list[Any]:
    """The outputs with the adapter that PEFT has active."""
    adapters, cache = lora.ActiveAdapter(family.module), FeatureCache({TEXTS: MEMO_BYTES})
    outputs: list[Any] = []
    for start in range(0, len(examples), batch):
        inputs = [example.model_input for example in examples[start : start + batch]]
        outputs += family.predict(inputs, [None] * len(inputs), adapters, cache)
    return outputs


def score(problem: Problem, family: Family, examples: Sequence[Example], batch: int) -> Metrics:
    """The metrics of the adapter that PEFT has active."""
    return measured(problem, examples, answer(family, examples, batch))


def measured(problem: Problem, examples: Sequence[Example], outputs: Sequence[Any]) -> Metrics:
    return problem.metrics([example.target for example in examples], outputs)


def judge(candidate: Metrics, live: Metrics, held_out: int, settings: Settings) -> Judgement:
    """Not worse is good enough: the candidate has seen more."""
    name = candidate.primary
    new, old = candidate.values[name], live.values[name]
    is_accepted = bool(new >= old)
    if held_out >= settings.evaluate_min_tasks:
        basis = f"on {candidate.values['tasks']} held-out tasks"
    else:
        basis = (
            f"on {candidate.values['tasks']} tasks, new ones cross-validated "
            f"({held_out} held out, {settings.evaluate_min_tasks} needed to tell)"
        )
    verdict = "not worse than" if is_accepted else "worse than"
    return Judgement(is_accepted, f"{name} {new:.3f} is {verdict} live's {old:.3f} {basis}", candidate, live)
