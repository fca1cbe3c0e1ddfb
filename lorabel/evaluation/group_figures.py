"""What annotators did with predictions, by groups of tasks, and whether groups differ by more than chance.

Each of the largest groups is compared with the others of them together, by Fisher's exact test, which is right for
small numbers, too. Holm's method corrects for the number of comparisons: with probability 0.95 or more, no
difference is reported where there is none. A comparison is about one label, or about whole tasks: these cases are
independent of each other, unlike the labels of a task, so figures over all labels have no test.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from lorabel.evaluation.agreement import LabelFigures, Outcome, Shown, label_figures
from lorabel.evaluation.proportions import Interval, wilson

# Fewer cases say nothing: with 10, an interval of 95% is up to 50% wide.
LEAST_CASES = 10
LEVEL = 0.05
# The most frequent groups have figures.
MOST_GROUPS = 20


class Share(NamedTuple):
    """How many of some cases are as they should be.

    Attributes:
        are_independent: False where several cases may be of one task: right or wrong together, they say less.
    """

    right: int
    cases: int
    are_independent: bool = True

    @property
    def is_enough(self) -> bool:
        """Whether there are enough cases to state the share."""
        return self.cases >= LEAST_CASES

    @property
    def value(self) -> float | None:
        """The share; None if there are too few cases."""
        return self.right / self.cases if self.is_enough else None

    @property
    def interval(self) -> Interval | None:
        """Where the share lies with 95% confidence; None if the cases are not independent."""
        return wilson(self.right, self.cases) if self.are_independent else None


@dataclass(frozen=True)
class GroupFigures:
    """A group of tasks.

    Attributes:
        group: the value of the field that its tasks have.
        unchanged: predictions that annotators submitted as they were, of all that were shown.
        precision: predicted labels that annotators kept, over all labels.
        recall: labels of annotations that were predicted, over all labels.
        labels: figures of each label.
    """

    group: str
    unchanged: Share
    precision: Share
    recall: Share
    labels: Sequence[LabelFigures]


@dataclass(frozen=True)
class Difference:
    """A group that differs from the other groups that have figures, together.

    Attributes:
        measure: `unchanged`, `precision` or `recall`.
        control_tag, label: what is measured; empty for whole tasks.
        in_group, in_others: in the group, and in the others.
        p: probability of such a difference by chance, corrected for the number of comparisons.
    """

    group: str
    measure: str
    control_tag: str
    label: str
    in_group: Share
    in_others: Share
    p: float


@dataclass(frozen=True)
class Groups:
    """The figures of all groups.

    Attributes:
        groups: the largest first.
        left_out: how many smaller groups have no figures; their tasks count in no comparison.
        comparisons: how many were made.
        differences: those beyond chance, the surest first.
    """

    groups: Sequence[GroupFigures]
    left_out: int
    comparisons: int
    differences: Sequence[Difference]


def compare_groups(shown: Sequence[tuple[str, Shown]]) -> Groups:
    """Compute the figures of groups, and compare them.

    Args:
        shown: the group of each task, and the prediction that its annotator was shown; one for each task.
    """
    by_group: defaultdict[str, list[Shown]] = defaultdict(list)
    for group, case in shown:
        by_group[group].append(case)
    sizes = Counter({group: len(cases) for group, cases in by_group.items()})
    largest = sorted(sizes, key=lambda group: (-sizes[group], group))[:MOST_GROUPS]
    groups = [_figures(group, by_group[group]) for group in largest]
    made = _comparisons(groups)
    corrected = zip(made, _holm([difference.p for difference in made]), strict=True)
    differences = [Difference(**{**vars(difference), "p": p}) for difference, p in corrected if p < LEVEL]
    return Groups(
        groups, len(sizes) - len(largest), len(made), sorted(differences, key=lambda difference: difference.p)
    )


def _figures(group: str, cases: Sequence[Shown]) -> GroupFigures:
    labels = label_figures(cases)
    unchanged = sum(case.outcome == Outcome.UNCHANGED for case in cases)
    right = sum(figures.right for figures in labels)
    return GroupFigures(
        group,
        Share(unchanged, len(cases)),
        Share(
            right, sum(figures.predicted for figures in labels), _has_one_each(case.predicted for case in cases)
        ),
        Share(right, sum(figures.support for figures in labels), _has_one_each(case.annotated for case in cases)),
        labels,
    )


def _has_one_each(labels: Iterable[Mapping[str, Set[str]] | None]) -> bool:
    """Whether no task has several labels."""
    return all(sum(map(len, of_task.values())) <= 1 for of_task in labels if of_task is not None)


def _comparisons(groups: Sequence[GroupFigures]) -> list[Difference]:
    """Each group against the others, with what chance alone would make of it, not yet corrected."""
    made = _compare(groups, "unchanged", "", "", lambda group: group.unchanged)
    by_label: defaultdict[tuple[str, str], dict[str, LabelFigures]] = defaultdict(dict)
    for group in groups:
        for figures in group.labels:
            by_label[figures.control_tag, figures.label][group.group] = figures
    for (tag, label), of_groups in sorted(by_label.items(), key=lambda item: item[0]):
        made += _compare(groups, "precision", tag, label, partial(_precision, of_groups))
        made += _compare(groups, "recall", tag, label, partial(_recall, of_groups))
    return made


def _precision(of_groups: Mapping[str, LabelFigures], group: GroupFigures) -> Share:
    figures = of_groups.get(group.group)
    return Share(0, 0) if figures is None else Share(figures.right, figures.predicted)


def _recall(of_groups: Mapping[str, LabelFigures], group: GroupFigures) -> Share:
    figures = of_groups.get(group.group)
    return Share(0, 0) if figures is None else Share(figures.right, figures.support)


def _compare(
    groups: Sequence[GroupFigures], measure: str, tag: str, label: str, share_of: Callable[[GroupFigures], Share]
) -> list[Difference]:
    from scipy.stats import fisher_exact  # takes a second

    shares = [(group.group, share_of(group)) for group in groups]
    right, cases = sum(share.right for _, share in shares), sum(share.cases for _, share in shares)
    made = []
    for group, in_group in shares:
        in_others = Share(right - in_group.right, cases - in_group.cases)
        if in_group.is_enough and in_others.is_enough:
            table = [[share.right, share.cases - share.right] for share in (in_group, in_others)]
            chance = float(fisher_exact(table).pvalue)
            made.append(Difference(group, measure, tag, label, in_group, in_others, chance))
    # Of two groups, one against the other is the other against the one.
    is_twice = len([share for _, share in shares if share.cases]) == 2 and len(made) == 2
    if not is_twice:
        return made
    return [min(made, key=lambda difference: difference.in_group.right / difference.in_group.cases)]


def _holm(probabilities: Sequence[float]) -> list[float]:
    """Probabilities corrected for their number, in the same order.

    Source: Holm, A simple sequentially rejective multiple test procedure, Scand. J. Statistics 6 (1979).
    """
    corrected = [0.0] * len(probabilities)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(probabilities)), key=probabilities.__getitem__)):
        largest = max(largest, min(1.0, probabilities[index] * (len(probabilities) - rank)))
        corrected[index] = largest
    return corrected
