"""Against scikit-learn, to which every possible relation is a row that is true or not, found or not."""

from itertools import product

import numpy as np
import pytest
from sklearn.metrics import precision_recall_fscore_support

from lorabel.evaluation.relation_metrics import Link, relations

LABELS = ("owns", "left of", "total of")
REGIONS = 4
POSSIBLE: list[Link] = [
    (start, end, label) for start, end, label in product(range(REGIONS), range(REGIONS), range(len(LABELS)))
]


def test_figures_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        targets, predicted = (
            [[link for link in POSSIBLE if rng.random() < 0.2] for _ in range(3)] for _ in range(2)
        )
        values = relations(targets, predicted, LABELS).values
        assert figures(values) == pytest.approx(of_scikit_learn(targets, predicted, range(len(LABELS))))
        for label, name in enumerate(LABELS):
            assert figures(values["per_class"][name]) == pytest.approx(
                of_scikit_learn(targets, predicted, [label])
            )


def figures(values: dict[str, float]) -> list[float]:
    return [values["precision"], values["recall"], values["f1"]]


def of_scikit_learn(
    targets: list[list[Link]], predicted: list[list[Link]], labels: list[int] | range
) -> list[float]:
    links = [link for link in POSSIBLE if link[2] in labels]
    true, found = ([link in task for task in tasks for link in links] for tasks in (targets, predicted))
    return list(precision_recall_fscore_support(true, found, average="binary", zero_division=0)[:3])


def test_direction_counts_and_a_relation_in_both_directions_is_two() -> None:
    assert relations([[(0, 1, 0)]], [[(1, 0, 0)]], LABELS).values["f1"] == 0.0
    both = relations([[(0, 1, 0), (1, 0, 0)]], [[(0, 1, 0)]], LABELS).values
    assert (both["precision"], both["recall"]) == (1.0, 0.5)


def test_no_relation_where_none_is_true_is_right() -> None:
    assert relations([[]], [[]], LABELS).values["f1"] == 1.0
    assert relations([[]], [[(0, 1, 0)]], LABELS).values["f1"] == 0.0
