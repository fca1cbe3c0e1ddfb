"""Metrics that several problems use, computed by scikit-learn and SciPy.

Both are imported inside the functions: they take seconds to import, and the backend, which imports this module
through the problems, never evaluates.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lorabel.contracts import LabelScores, LabelTarget, RankingTarget
from lorabel.labeling.taxonomy import Taxonomy


@dataclass(frozen=True)
class Metrics:
    """How well a version does on held-out tasks.

    Args:
        primary: the key in `values` of the metric that decides about promotion; higher is better.
        values: all metrics by name. Except for the primary, they are for people to read.
    """

    primary: str
    values: dict[str, Any]


def classification(
    targets: Sequence[tuple[int, ...]],
    predicted: Sequence[tuple[int, ...]],
    probabilities: Sequence[Sequence[float]],
    labels: Sequence[str],
    is_multiple: bool,
) -> Metrics:
    """Accuracy (exact match if multiple), macro and per-class precision, recall and F1, ROC AUC, confusion matrix.

    Macro averages are over the classes that occur in targets or predictions, since a class that no held-out task
    has says nothing. `roc_auc` is each class against the rest; its macro average is over the classes that some
    tasks have and some have not, and None if there is no such class. `confusion` has a row for each true label and
    a column for each predicted label (single), or `[[tn, fp], [fn, tp]]` for each label (multiple).

    Args:
        targets: indices of the right labels of each task.
        predicted: indices of the predicted labels of each task.
        probabilities: for each task a number for each label.
        is_multiple: whether a task may have any number of labels.
    """
    from sklearn.metrics import accuracy_score, confusion_matrix, precision_recall_fscore_support

    truth, guess = _indicators(targets, len(labels)), _indicators(predicted, len(labels))
    precision, recall, f1, support = precision_recall_fscore_support(truth, guess, average=None, zero_division=0)
    occurring = (truth.any(axis=0)) | (guess.any(axis=0))
    macro = [float(np.mean(figure[occurring])) if occurring.any() else 1.0 for figure in (precision, recall, f1)]
    if is_multiple:
        confusion = [
            [[int(np.sum(~t & ~g)), int(np.sum(~t & g))], [int(np.sum(t & ~g)), int(np.sum(t & g))]]
            for t, g in zip(truth.T, guess.T, strict=True)
        ]
    else:
        order = list(range(len(labels)))
        confusion = confusion_matrix(truth.argmax(1), guess.argmax(1), labels=order).tolist()
    areas = _roc_aucs(truth, np.asarray(probabilities, dtype=float).reshape(truth.shape))
    defined_areas = [area for area in areas if area is not None]
    per_class = {
        label: {"precision": float(p), "recall": float(r), "f1": float(f), "roc_auc": area, "support": int(n)}
        for label, p, r, f, area, n in zip(labels, precision, recall, f1, areas, support, strict=True)
    }
    return Metrics(
        "accuracy",
        {
            "tasks": len(targets),
            "accuracy": float(accuracy_score(truth, guess)),
            "macro_precision": macro[0],
            "macro_recall": macro[1],
            "macro_f1": macro[2],
            "roc_auc": float(np.mean(defined_areas)) if defined_areas else None,
            "per_class": per_class,
            "labels": list(labels),
            "confusion": confusion,
        },
    )


def _roc_aucs(truth: NDArray[np.bool_], probabilities: NDArray[np.float64]) -> list[float | None]:
    """ROC AUC of each class against the rest; None for a class that all tasks have, or none has."""
    from sklearn.metrics import roc_auc_score

    return [
        float(roc_auc_score(has_class, scores)) if 0 < has_class.sum() < len(has_class) else None
        for has_class, scores in zip(truth.T, probabilities.T, strict=True)
    ]


def taxonomy(
    tree: Taxonomy, targets: Sequence[LabelTarget], outputs: Sequence[LabelScores], predicted: Sequence[int]
) -> Metrics:
    """The metrics of `classification` for the labels that paths end at, and `accuracy_by_level`, the top first.

    Where a task has several right paths, the predicted path is compared with the same path if it is among them,
    else with the first.

    Args:
        predicted: for each task the label that the predicted path ends at.
    """
    all_ends = [tree.ends(target) for target in targets]
    right = [(end if end in ends else ends[0],) for end, ends in zip(predicted, all_ends, strict=True)]
    names = [" / ".join(path) for path in tree.paths]
    probabilities = [tree.path_probabilities(output) for output in outputs]
    metrics = classification(right, [(end,) for end in predicted], probabilities, names, is_multiple=False)
    by_level = tree.accuracy_by_level(targets, predicted)
    return Metrics(metrics.primary, {**metrics.values, "accuracy_by_level": by_level})


def regression(targets: Sequence[float], estimates: Sequence[float | None], scales: Sequence[float]) -> Metrics:
    """Closeness, and, of the tasks with an estimate, mean absolute error and Spearman's rank correlation.

    `closeness` is the mean of max(0, 1 - error / scale). A task without an estimate counts as 0, so an estimate is
    never worse than none. `mae` is None if no task has an estimate; `spearman` is 0 if all targets or all
    estimates are equal.

    Args:
        estimates: None for a task without an estimate.
        scales: for each task the error at which its closeness becomes 0.
    """
    from scipy.stats import spearmanr

    errors = [
        None if estimate is None else abs(estimate - target)
        for target, estimate in zip(targets, estimates, strict=True)
    ]
    closenesses = [
        0.0 if error is None else 1 - min(1.0, error / scale) for error, scale in zip(errors, scales, strict=True)
    ]
    pairs = [
        (target, estimate) for target, estimate in zip(targets, estimates, strict=True) if estimate is not None
    ]
    known_errors = [error for error in errors if error is not None]
    has_order = bool(pairs) and all(len(set(values)) > 1 for values in zip(*pairs, strict=True))
    return Metrics(
        "closeness",
        {
            "tasks": len(targets),
            "closeness": float(np.mean(closenesses)),
            "answered": len(pairs),
            "mae": float(np.mean(known_errors)) if known_errors else None,
            "spearman": float(spearmanr(*zip(*pairs, strict=True)).statistic) if has_order else 0.0,
        },
    )


def ranking(targets: Sequence[RankingTarget], scores: Sequence[Sequence[float]]) -> Metrics:
    """Means over the tasks whose target orders at least two items.

    `pair_accuracy` is the share of pairs in the right order. Equal scores count half; a task without an answer
    counts as 0, which is less than the half that guessing gets. `recall_at_1` says whether a best item comes
    first. `kendall` (tau b) and `spearman` are 0 for a task without an answer, or whose scores are all equal.

    Args:
        scores: for each task a score for each item, higher for better; empty for a task without an answer.
    """
    from scipy.stats import kendalltau, spearmanr

    pairs: list[float] = []
    first: list[float] = []
    kendall: list[float] = []
    spearman: list[float] = []
    for target, item_scores in zip(targets, scores, strict=True):
        if not target.pairs:
            continue
        right_pairs = (
            [_is_in_order(item_scores[a] - item_scores[b]) for a, b in target.pairs] if item_scores else 0.0
        )
        pairs.append(float(np.mean(right_pairs)))
        first.append(float(bool(item_scores) and target.ranks[int(np.argmax(item_scores))] == 0))
        has_order = len(set(item_scores)) > 1
        target_scores = [-rank for rank in target.ranks]
        kendall.append(kendalltau(target_scores, item_scores).statistic if has_order else 0.0)
        spearman.append(spearmanr(target_scores, item_scores).statistic if has_order else 0.0)
    figures = {"pair_accuracy": pairs, "recall_at_1": first, "kendall": kendall, "spearman": spearman}
    means = {name: float(np.mean(values)) if values else 0.0 for name, values in figures.items()}
    return Metrics("pair_accuracy", {"tasks": len(targets), "answered": sum(map(bool, scores)), **means})


def _is_in_order(difference: float) -> float:
    """1 if the better item of a pair has the higher score, 0.5 if the scores are equal, else 0."""
    return float(difference > 0) + 0.5 * float(difference == 0)


def _indicators(rows: Sequence[tuple[int, ...]], n_labels: int) -> NDArray[np.bool_]:
    """The rows of label indices as a (rows, labels) bool table."""
    table = np.zeros((len(rows), n_labels), dtype=bool)
    for row, indices in zip(table, rows, strict=True):
        row[list(indices)] = True
    return table
