from types import SimpleNamespace
from typing import Any

from lorabel.evaluation.metrics import Metrics
from lorabel.settings import Settings
from workers.evaluate import judge, split_for_cross_validation

SETTINGS = Settings(evaluate_min_tasks=5, evaluate_max_tasks=8)


def metrics(accuracy: float, tasks: int = 10) -> Metrics:
    return Metrics("accuracy", {"accuracy": accuracy, "tasks": tasks})


def example(number: int, is_new: bool) -> Any:
    return SimpleNamespace(number=number, training_example=SimpleNamespace(is_new=is_new))


def test_a_candidate_that_is_not_worse_is_accepted_and_a_worse_one_rejected() -> None:
    assert judge(metrics(0.9), metrics(0.8), 10, SETTINGS).is_accepted
    assert judge(metrics(0.8), metrics(0.8), 10, SETTINGS).is_accepted
    rejected = judge(metrics(0.7), metrics(0.8), 10, SETTINGS)
    assert not rejected.is_accepted
    assert rejected.decision == "accuracy 0.700 is worse than live's 0.800 on 10 held-out tasks"
    assert (rejected.candidate.values["accuracy"], rejected.live.values["accuracy"]) == (0.7, 0.8)


def test_with_few_held_out_tasks_the_decision_says_that_new_ones_were_cross_validated() -> None:
    decision = judge(metrics(0.9, 12), metrics(0.5, 12), 2, SETTINGS).decision
    assert decision.endswith("on 12 tasks, new ones cross-validated (2 held out, 5 needed to tell)")


def test_each_new_example_is_tested_once_by_a_model_that_has_not_seen_it() -> None:
    train = [example(number, is_new=number >= 4) for number in range(12)]
    splits = split_for_cross_validation(train)
    assert sorted(example.number for _, tested in splits for example in tested) == list(range(4, 12))
    for learned, tested in splits:
        assert {example.number for example in [*learned, *tested]} == set(range(12))
        assert len(learned) + len(tested) == 12


def test_old_examples_are_never_tested_because_live_has_learned_them() -> None:
    assert split_for_cross_validation([example(1, is_new=False)]) == []
    splits = split_for_cross_validation([example(1, is_new=True), example(2, is_new=True)])
    assert [len(tested) for _, tested in splits] == [1, 1]
