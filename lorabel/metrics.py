"""Scoring that problems share, on scikit-learn."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, confusion_matrix, precision_recall_fscore_support

from lorabel.problems import Metrics


def classification(
    targets: Sequence[tuple[int, ...]],
    predicted: Sequence[tuple[int, ...]],
    labels: Sequence[str],
    is_multiple: bool,
) -> Metrics:
    """Accuracy (exact match if multiple), macro and per-class precision, recall and F1, confusion matrix.

    Macro averages go over the classes that occur in targets or predictions: a class that no held-out task
    has says nothing. `confusion` has a row per true label and a column per predicted one (single), or per
    label `[[tn, fp], [fn, tp]]` (multiple).
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
    per_class = {
        label: {"precision": float(p), "recall": float(r), "f1": float(f), "support": int(n)}
        for label, p, r, f, n in zip(labels, precision, recall, f1, support, strict=True)
    }
    return Metrics(
        "accuracy",
        {
            "tasks": len(targets),
            "accuracy": float(accuracy_score(truth, guess)),
            "macro_precision": macro[0],
            "macro_recall": macro[1],
            "macro_f1": macro[2],
            "per_class": per_class,
            "labels": list(labels),
            "confusion": confusion,
        },
    )


def _indicators(rows: Sequence[tuple[int, ...]], n_labels: int) -> NDArray[np.bool_]:
    """(rows, labels) bool."""
    table = np.zeros((len(rows), n_labels), dtype=bool)
    for row, indices in zip(table, rows, strict=True):
        row[list(indices)] = True
    return table
