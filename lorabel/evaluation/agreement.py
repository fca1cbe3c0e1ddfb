"""What annotators did with the predictions that they were shown, by label.

Each prediction was shown before its annotation was learned from. It is no blind test, though: a person who sees
an answer accepts it more easily than one who has none would give it.
"""

import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from enum import StrEnum

from lorabel.evaluation.proportions import Interval, wilson

# Rows and columns of a confusion matrix beside the labels.
NO_LABEL, SEVERAL = "(no label)", "(several)"


class Outcome(StrEnum):
    """What became of a prediction: submitted as it was, changed, or all of it removed."""

    UNCHANGED = "unchanged"
    CORRECTED = "corrected"
    EMPTIED = "emptied"


@dataclass(frozen=True)
class Shown:
    """A prediction that an annotator was shown, and the annotation.

    Attributes:
        predicted, annotated: from_name -> the labels that occur; None if not known.
    """

    task_id: int
    outcome: Outcome
    predicted: Mapping[str, Set[str]] | None
    annotated: Mapping[str, Set[str]] | None


@dataclass(frozen=True)
class LabelFigures:
    """A label in what annotators were shown: whether it occurs in a task's prediction and annotation.

    Attributes:
        predicted: tasks whose prediction has the label; `right` of these, the annotation has it, too.
        support: tasks whose annotation has the label.
        outcomes: of the tasks whose prediction has it.
    """

    control_tag: str
    label: str
    predicted: int
    right: int
    support: int
    outcomes: Mapping[Outcome, int]

    @property
    def precision(self) -> float | None:
        return self.right / self.predicted if self.predicted else None

    @property
    def recall(self) -> float | None:
        return self.right / self.support if self.support else None

    @property
    def interval(self) -> Interval:
        """Of the precision."""
        return wilson(self.right, self.predicted)


@dataclass(frozen=True)
class Confusion:
    """Tasks by annotated and predicted label of a control tag.

    Attributes:
        labels: of rows and columns.
        task_ids: (annotated, predicted) -> the tasks.
    """

    control_tag: str
    labels: Sequence[str]
    task_ids: Mapping[tuple[str, str], Sequence[int]]


@dataclass(frozen=True)
class Spread:
    """The middle and the quartiles of values; `count` values."""

    count: int
    low: float
    median: float
    high: float


def label_figures(shown: Sequence[Shown]) -> list[LabelFigures]:
    """The figures of every label that occurs, by control tag, the most frequent first."""
    predicted: Counter[tuple[str, str]] = Counter()
    right: Counter[tuple[str, str]] = Counter()
    support: Counter[tuple[str, str]] = Counter()
    outcomes: dict[tuple[str, str], Counter[Outcome]] = defaultdict(Counter)
    for case in shown:
        if case.predicted is None or case.annotated is None:
            continue
        guesses, truths = _pairs(case.predicted), _pairs(case.annotated)
        predicted.update(guesses)
        support.update(truths)
        right.update(guesses & truths)
        for pair in guesses:
            outcomes[pair][case.outcome] += 1
    figures = [
        LabelFigures(*pair, predicted[pair], right[pair], support[pair], outcomes[pair])
        for pair in predicted.keys() | support.keys()
    ]
    return sorted(figures, key=lambda figure: (figure.control_tag, -figure.support, figure.label))


def confusion(shown: Sequence[Shown], control_tag: str, most_labels: int) -> Confusion:
    """Cross annotated with predicted labels.

    Args:
        most_labels: the most frequent labels have a row and column of their own. Tasks with others are left out.
    """
    cells: dict[tuple[str, str], list[int]] = defaultdict(list)
    for case in shown:
        if case.predicted is not None and case.annotated is not None:
            truth, guess = _single(case.annotated, control_tag), _single(case.predicted, control_tag)
            if (truth, guess) != (NO_LABEL, NO_LABEL):
                cells[truth, guess].append(case.task_id)
    counts: Counter[str] = Counter()
    for (truth, guess), task_ids in cells.items():
        counts.update({truth: len(task_ids)})
        counts.update({guess: len(task_ids)})
    named = [label for label, _ in counts.most_common() if label not in (NO_LABEL, SEVERAL)][:most_labels]
    labels = [*sorted(named), *(label for label in (SEVERAL, NO_LABEL) if counts[label])]
    kept = {pair: ids for pair, ids in cells.items() if pair[0] in labels and pair[1] in labels}
    return Confusion(control_tag, labels, kept)


def spread(values: Sequence[float]) -> Spread | None:
    """None if there are no values."""
    if not values:
        return None
    if len(values) == 1:
        return Spread(1, values[0], values[0], values[0])
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(len(values), low, median, high)


def _pairs(labels: Mapping[str, Set[str]]) -> set[tuple[str, str]]:
    return {(tag, label) for tag, names in labels.items() for label in names}


def _single(labels: Mapping[str, Set[str]], control_tag: str) -> str:
    names = labels.get(control_tag, frozenset())
    return NO_LABEL if not names else SEVERAL if len(names) > 1 else next(iter(names))
