"""Candidate against live on the same held-out tasks: which one serves from now on?

The rule: with at least EVALUATE_MIN_TASKS held-out tasks, the candidate must not be worse than live on them in
the problem's primary figure. With fewer, a task more or less decides nothing, so the tasks that were trained
on count too: a candidate that did not even learn those, or forgot the few held-out ones, is rejected.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lorabel.families import Family
from lorabel.memo import TEXTS, Memo
from lorabel.problems import Metrics, Problem
from lorabel.settings import Settings
from workers import lora
from workers.examples import Example

MEMO_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True)
class Judgement:
    is_accepted: bool
    decision: str
    candidate: Metrics
    live: Metrics


def choose_tasks(held_out: Sequence[Example], trained: Sequence[Example], settings: Settings) -> Sequence[Example]:
    """What both are scored on: the newest held-out tasks, or everything where those are too few to tell."""
    if len(held_out) >= settings.evaluate_min_tasks:
        return held_out[-settings.evaluate_max_tasks :]
    return [*held_out, *trained]


def answer(family: Family, examples: Sequence[Example], batch: int) -> list[Any]:
    """The outputs with the adapter that PEFT has active."""
    adapters, memo = lora.ActiveAdapter(family.module), Memo({TEXTS: MEMO_BYTES})
    outputs: list[Any] = []
    for start in range(0, len(examples), batch):
        inputs = [example.model_input for example in examples[start : start + batch]]
        outputs += family.predict(inputs, [None] * len(inputs), adapters, memo)
    return outputs


def score(problem: Problem, family: Family, examples: Sequence[Example], batch: int) -> Metrics:
    """The metrics of the adapter that PEFT has active."""
    return problem.metrics([example.target for example in examples], answer(family, examples, batch))


def judge(candidate: Metrics, live: Metrics, held_out: int, settings: Settings) -> Judgement:
    """Not worse is good enough: the candidate has seen more."""
    name = candidate.primary
    new, old = candidate.values[name], live.values[name]
    is_accepted = bool(new >= old)
    if held_out >= settings.evaluate_min_tasks:
        basis = f"on {candidate.values['tasks']} held-out tasks"
    else:
        basis = (
            f"on {candidate.values['tasks']} tasks, trained ones among them "
            f"({held_out} held out, {settings.evaluate_min_tasks} needed to tell)"
        )
    verdict = "not worse than" if is_accepted else "worse than"
    return Judgement(is_accepted, f"{name} {new:.3f} is {verdict} live's {old:.3f} {basis}", candidate, live)
