from lorabel.evaluation.metrics import Metrics
from lorabel.settings import Settings
from workers.acceptance import judge

SETTINGS = Settings(evaluate_min_tasks=5, evaluate_max_tasks=8)


def metrics(accuracy: float, tasks: int = 10) -> Metrics:
    return Metrics("accuracy", {"accuracy": accuracy, "tasks": tasks})


def test_a_candidate_that_is_better_is_accepted_and_a_worse_one_rejected() -> None:
    accepted = judge(metrics(0.9), metrics(0.8), 10, SETTINGS)
    assert accepted.is_accepted
    assert accepted.decision == "accuracy 0.900 is better than live's 0.800 on 10 held-out tasks"
    rejected = judge(metrics(0.7), metrics(0.8), 10, SETTINGS)
    assert not rejected.is_accepted
    assert rejected.decision == "accuracy 0.700 is worse than live's 0.800 on 10 held-out tasks"
    assert (rejected.candidate.values["accuracy"], rejected.live.values["accuracy"]) == (0.7, 0.8)


def test_a_candidate_that_ties_with_live_stays_a_candidate() -> None:
    """At chance, and where nothing can be learned, a run would else make a new version of every tie."""
    for accuracy in (0.5, 1.0):
        tied = judge(metrics(accuracy), metrics(accuracy), 10, SETTINGS)
        assert not tied.is_accepted
        assert tied.decision.startswith(f"accuracy {accuracy:.3f} is no better than live's {accuracy:.3f} on 10")


def test_with_few_held_out_tasks_the_decision_says_that_new_ones_were_cross_validated() -> None:
    decision = judge(metrics(0.9, 12), metrics(0.5, 12), 2, SETTINGS).decision
    assert decision.endswith("on 12 tasks, new ones cross-validated (2 held out, 5 needed to tell)")
