"""Scoring that problems share, on scikit-learn."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau, spearmanr
from sklearn.metrics import accuracy_score, confusion_matrix, precision_recall_fscore_support, roc_auc_score

from lorabel.contracts import LabelScores, LabelTarget, OrderTarget
from lorabel.labeling.taxonomy import Taxonomy


@dataclass(frozen=True)
class Metrics:
    """`values[primary]` decides about promotion, higher is better; the rest is for people."""

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

    Macro averages go over the classes that occur in targets or predictions: a class that no held-out task
    has says nothing. `roc_auc` is each class against the rest, its macro average over those that some tasks have
    and some have not; None if there is none. `confusion` has a row per true label and a column per predicted one
    (single), or per label `[[tn, fp], [fn, tp]]` (multiple).
    """
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
    known = [area for area in areas if area is not None]
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
            "roc_auc": float(np.mean(known)) if known else None,
            "per_class": per_class,
            "labels": list(labels),
            "confusion": confusion,
        },
    )


def _roc_aucs(truth: NDArray[np.bool_], probabilities: NDArray[np.float64]) -> list[float | None]:
    """Of each class against the rest; None where all tasks have it, or none has."""
    return [
        float(roc_auc_score(is_it, scores)) if 0 < is_it.sum() < len(is_it) else None
        for is_it, scores in zip(truth.T, probabilities.T, strict=True)
    ]


def taxonomy(
    tree: Taxonomy, targets: Sequence[LabelTarget], outputs: Sequence[LabelScores], predicted: Sequence[int]
) -> Metrics:
    """As `classification` of the ends of paths, where of several right ones that counts which was predicted; and
    `accuracy_by_level`, the top first.

    Args:
        predicted: the end of each predicted path.
    """
    ends = [tree.ends(target) for target in targets]
    right = [(end if end in of_target else of_target[0],) for end, of_target in zip(predicted, ends, strict=True)]
    names = [" / ".join(path) for path in tree.paths]
    probabilities = [tree.path_probabilities(output) for output in outputs]
    metrics = classification(right, [(end,) for end in predicted], probabilities, names, is_multiple=False)
    by_level = tree.accuracy_by_level(targets, predicted)
    return Metrics(metrics.primary, {**metrics.values, "accuracy_by_level": by_level})


def regression(targets: Sequence[float], estimates: Sequence[float | None], scales: Sequence[float]) -> Metrics:
    """Mean absolute error and Spearman's rank correlation of what was estimated, and closeness.

    `closeness` is the mean of 1 - error / scale, at least 0 each, in which no answer counts as 0: a guess is never
    worse than silence. `mae` is None if nothing was estimated; `spearman` is 0 where all targets or all estimates
    are alike.
    """
    errors = [None if e is None else abs(e - t) for t, e in zip(targets, estimates, strict=True)]
    close = [0.0 if e is None else 1 - min(1.0, e / scale) for e, scale in zip(errors, scales, strict=True)]
    known = [(t, e) for t, e in zip(targets, estimates, strict=True) if e is not None]
    answered = [e for e in errors if e is not None]
    has_order = all(len(set(one)) > 1 for one in zip(*known, strict=True)) and bool(known)
    return Metrics(
        "closeness",
        {
            "tasks": len(targets),
            "closeness": float(np.mean(close)),
            "answered": len(known),
            "mae": float(np.mean(answered)) if answered else None,
            "spearman": float(spearmanr(*zip(*known, strict=True)).statistic) if has_order else 0.0,
        },
    )


def ranking(targets: Sequence[OrderTarget], scores: Sequence[Sequence[float]]) -> Metrics:
    """Means over the tasks in which there is an order.

    `pair_accuracy`: the share of pairs in the right order; equal scores count half, and no answer counts as 0,
    less than the half that chance gets. `recall_at_1`: whether a best item comes first. `kendall` (tau b) and
    `spearman` are 0 where there is no answer, or where all scores are equal.
    """
    pairs: list[float] = []
    first: list[float] = []
    kendall: list[float] = []
    spearman: list[float] = []
    for target, own in zip(targets, scores, strict=True):
        if not target.pairs:
            continue
        pairs.append(float(np.mean([_is_in_order(own[a] - own[b]) for a, b in target.pairs])) if own else 0.0)
        first.append(float(bool(own) and target.places[int(np.argmax(own))] == 0))
        has_order = len(set(own)) > 1
        wanted = [-place for place in target.places]
        kendall.append(kendalltau(wanted, own).statistic if has_order else 0.0)
        spearman.append(spearmanr(wanted, own).statistic if has_order else 0.0)
    figures = {"pair_accuracy": pairs, "recall_at_1": first, "kendall": kendall, "spearman": spearman}
    means = {name: float(np.mean(values)) if values else 0.0 for name, values in figures.items()}
    return Metrics("pair_accuracy", {"tasks": len(targets), "answered": sum(map(bool, scores)), **means})


def _is_in_order(difference: float) -> float:
    return float(difference > 0) + 0.5 * float(difference == 0)


def _indicators(rows: Sequence[tuple[int, ...]], n_labels: int) -> NDArray[np.bool_]:
    """(rows, labels) bool."""
    table = np.zeros((len(rows), n_labels), dtype=bool)
    for row, indices in zip(table, rows, strict=True):
        row[list(indices)] = True
    return table
