from typing import Any

from lorabel.problems import Metrics
from lorabel.settings import Settings
from workers.evaluate import choose_tasks, judge

SETTINGS = Settings(evaluate_min_tasks=5, evaluate_max_tasks=8)


def metrics(accuracy: float, tasks: int = 10) -> Metrics:
    return Metrics("accuracy", {"accuracy": accuracy, "tasks": tasks})


def test_a_candidate_that_is_not_worse_is_accepted_and_a_worse_one_rejected() -> None:
    assert judge(metrics(0.9), metrics(0.8), 10, SETTINGS).is_accepted
    assert judge(metrics(0.8), metrics(0.8), 10, SETTINGS).is_accepted
    rejected = judge(metrics(0.7), metrics(0.8), 10, SETTINGS)
    assert not rejected.is_accepted
    assert rejected.decision == "accuracy 0.700 is worse than live's 0.800 on 10 held-out tasks"
    assert (rejected.candidate.values["accuracy"], rejected.live.values["accuracy"]) == (0.7, 0.8)


def test_enough_held_out_tasks_are_scored_alone_the_newest_first_if_there_are_too_many() -> None:
    held_out: Any = list(range(20))
    assert list(choose_tasks(held_out[:5], ["trained"], SETTINGS)) == [0, 1, 2, 3, 4]  # type: ignore[list-item]
    assert list(choose_tasks(held_out, [], SETTINGS)) == list(range(12, 20))


def test_too_few_held_out_tasks_are_scored_together_with_the_trained_ones() -> None:
    few: Any = [1, 2]
    assert list(choose_tasks(few, ["trained"], SETTINGS)) == [1, 2, "trained"]  # type: ignore[list-item]
    decision = judge(metrics(0.9, 12), metrics(0.5, 12), 2, SETTINGS).decision
    assert decision.endswith("on 12 tasks, trained ones among them (2 held out, 5 needed to tell)")
