import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from lorabel.evaluation.metrics import classification

LABELS = ("red", "blue", "green")


def test_roc_auc_is_that_of_scikit_learn_for_each_class_against_the_rest() -> None:
    generator = np.random.default_rng(1)
    targets = generator.integers(0, 3, 60)
    scores = generator.dirichlet((1, 1, 1), 60) + np.eye(3)[targets]
    scores /= scores.sum(1, keepdims=True)
    predicted = [(int(row.argmax()),) for row in scores]
    values = classification(
        [(int(target),) for target in targets], predicted, scores.tolist(), LABELS, False
    ).values
    expected = roc_auc_score(targets, scores, multi_class="ovr", average="macro")
    assert values["roc_auc"] == pytest.approx(expected)
    assert np.mean([figures["roc_auc"] for figures in values["per_class"].values()]) == pytest.approx(expected)


def test_a_class_that_every_task_or_none_has_has_no_roc_auc() -> None:
    targets, scores = [(0, 1), (0,)], [(0.9, 0.8, 0.1), (0.9, 0.3, 0.2)]
    values = classification(targets, targets, scores, LABELS, True).values
    assert [values["per_class"][name]["roc_auc"] for name in LABELS] == [None, 1.0, None]
    assert values["roc_auc"] == 1.0
    assert classification([(0,)], [(0,)], [(1.0, 0.0, 0.0)], LABELS, False).values["roc_auc"] is None
