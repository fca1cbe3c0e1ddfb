"""Precision, recall and F1 of relations between regions of a task."""

from collections.abc import Sequence

from lorabel.evaluation.metrics import Metrics

# A relation as (region it goes from, region it goes to, index of the label).
Link = tuple[int, int, int]


def relations(
    targets: Sequence[Sequence[Link]], predicted: Sequence[Sequence[Link]], labels: Sequence[str]
) -> Metrics:
    """Precision, recall and F1 of the relations of all tasks together, and for each label.

    A predicted relation is right if a true one goes from the same region to the same region with the same label. A
    relation in both directions is two. All of them are 1 where no relation is true and none was predicted.
    `macro_f1` is over the labels that occur in targets or predictions.

    Args:
        targets: the true relations of each task.
        predicted: the predicted relations of each task, between regions that are numbered as the true ones.
    """
    pairs = [(set(truth), set(guess)) for truth, guess in zip(targets, predicted, strict=True)]
    per_class, f1s = {}, []
    for index, label in enumerate(labels):
        of_label = [
            ({link for link in truth if link[2] == index}, {link for link in guess if link[2] == index})
            for truth, guess in pairs
        ]
        figures = _figures(of_label)
        per_class[label] = {**figures, "support": sum(len(truth) for truth, _ in of_label)}
        f1s += [figures["f1"]] if any(truth or guess for truth, guess in of_label) else []
    return Metrics(
        "f1",
        {
            "tasks": len(targets),
            **_figures(pairs),
            "macro_f1": sum(f1s) / len(f1s) if f1s else 1.0,
            "per_class": per_class,
            "labels": list(labels),
        },
    )


def _figures(pairs: Sequence[tuple[set[Link], set[Link]]]) -> dict[str, float]:
    right = sum(len(truth & guess) for truth, guess in pairs)
    true_count, found_count = sum(len(truth) for truth, _ in pairs), sum(len(guess) for _, guess in pairs)
    if not true_count and not found_count:
        return {"precision": 1.0, "recall": 1.0, "f1": 1.0}
    return {
        "precision": right / found_count if found_count else 0.0,
        "recall": right / true_count if true_count else 0.0,
        "f1": 2 * right / (true_count + found_count),
    }
