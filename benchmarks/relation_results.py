"""Metrics of relations between predicted regions. Those of a run are of relations between the true regions."""

from collections.abc import Sequence

from lorabel.errors import MissingTargetError
from lorabel.evaluation.metrics import Metrics
from lorabel.labeling.regions import Region
from lorabel.problems._relations import RelationProblem
from lorabel.problems.base import TaskData
from lorabel.relation_contracts import Relation, Relations, RelationTarget


def metrics_of_results(
    problem: RelationProblem,
    truths: Sequence[Sequence[Region]],
    results: Sequence[Sequence[Region]],
    data: Sequence[TaskData],
) -> Metrics:
    """Compute the metrics of a problem of relations, of whole results.

    A relation is right if both its regions are (`RelationProblem.same_regions`), and its label and direction.

    Args:
        truths: what annotators said of each task.
        results: what was predicted, each with its regions.
    """
    targets, outputs = list[RelationTarget](), list[Relations]()
    for truth, result, of_task in zip(truths, results, data, strict=True):
        expected, found = (_target_of(problem, each, of_task) for each in (truth, result))
        same = problem.same_regions(found.regions, expected.regions)
        # A region that is none of the true ones has an index that none of them has.
        beyond = len(expected.regions)
        links = (
            Relation(first=same.get(first, beyond + first), second=same.get(second, beyond + second), label=label)
            for first, second, label in found.links
        )
        targets.append(expected)
        outputs.append(Relations(relations=tuple(links)))
    return problem.metrics(targets, outputs)


def _target_of(problem: RelationProblem, result: Sequence[Region], data: TaskData) -> RelationTarget:
    """The target of a result; that of an empty one if it has no relations that can be used."""
    try:
        return problem.target(list(result), data)
    except MissingTargetError:
        return RelationTarget((), ())
