import math
from collections.abc import Sequence

import pytest

from lorabel.contracts import LabelScores, LabelTarget
from lorabel.evaluation.metrics import Metrics
from lorabel.problems.binding import bind
from lorabel.settings import Settings
from tests.workers.pictures import LABEL_CONFIG
from workers.acceptance import judge, judge_beside_head

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


(PROBLEM,) = bind(LABEL_CONFIG).bindings
TARGETS = [LabelTarget((number % 3,)) for number in range(30)]


def answers(probabilities: Sequence[float]) -> list[LabelScores]:
    """One answer for each of TARGETS, with this probability for the right label."""
    scores = []
    for target, probability in zip(TARGETS, probabilities, strict=True):
        row = [(1 - probability) / 2] * 3
        row[target.indices[0]] = probability
        scores.append(LabelScores(probabilities=tuple(row)))
    return scores


def test_beside_a_head_a_candidate_is_accepted_if_its_log_loss_is_lower_by_more_than_two_standard_errors() -> None:
    better = [0.6 + 0.01 * (number % 5) for number in range(30)]
    accepted = judge_beside_head(PROBLEM, TARGETS, answers(better), answers([0.5] * 30))
    assert accepted.is_accepted
    assert accepted.decision == (
        "log-loss 0.478 is better than the head's 0.693 (by 0.215 +- 0.004) on 30 tasks, cross-validated; "
        "accuracy 1.000 against 1.000"
    )
    assert accepted.candidate.values["log_loss"] == pytest.approx(0.478, abs=0.001)


def test_beside_a_head_a_gain_of_less_than_two_standard_errors_is_not_enough() -> None:
    """One in six candidates that gain nothing exceeds one."""
    candidate = answers([0.8] * 9 + [0.4] * 21)
    judgement = judge_beside_head(PROBLEM, TARGETS, candidate, answers([0.45] * 30))
    assert judgement.over_head is not None
    gain = judgement.over_head.log_loss / judgement.over_head.standard_error
    assert 1.2 < gain < 1.9 and judgement.over_head.value == 0
    assert not judgement.is_accepted and "is not surely better than the head's" in judgement.decision


def test_beside_a_head_a_gain_that_one_task_makes_is_not_enough() -> None:
    judgement = judge_beside_head(PROBLEM, TARGETS, answers([0.99] + [0.5] * 29), answers([0.5] * 30))
    assert not judgement.is_accepted
    assert "is not surely better than the head's" in judgement.decision


def test_beside_a_head_a_tie_keeps_what_answers_now() -> None:
    same = answers([0.7] * 30)
    judgement = judge_beside_head(PROBLEM, TARGETS, same, same)
    assert not judgement.is_accepted and not judgement.is_surely_worse


def test_beside_a_head_a_lower_accuracy_is_not_made_up_for_by_log_loss() -> None:
    now = [0.4] * 30
    candidate = [0.9] * 28 + [0.3] * 2
    judgement = judge_beside_head(PROBLEM, TARGETS, answers(candidate), answers(now))
    assert not judgement.is_accepted
    assert judgement.decision.endswith("accuracy 0.933 against 1.000, which decides")


def test_beside_a_head_the_gain_over_the_head_alone_is_known_where_an_adapter_is_live() -> None:
    better = [0.6 + 0.01 * (number % 5) for number in range(30)]
    head_alone = answers([0.3] * 3 + [0.4] * 27)
    judgement = judge_beside_head(PROBLEM, TARGETS, answers(better), answers([0.65] * 30), head_alone)
    assert not judgement.is_accepted, "live is better than the candidate"
    assert judgement.over_head is not None and judgement.over_head.is_sure, "which is better than the head alone"
    mean_loss = -(3 * math.log(0.3) + 27 * math.log(0.4)) / 30
    assert judgement.over_head.log_loss == pytest.approx(mean_loss - 0.478, abs=0.001)
    assert judgement.over_head.value == pytest.approx(3 / 30), "three answers of the head alone are wrong"
    assert judgement.decision.endswith("gain over the head alone: log-loss 0.467 +- 0.016, accuracy +0.100")
