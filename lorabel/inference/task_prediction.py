"""Merges what the bindings of a project say about one task into its prediction."""

import logging
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import partial

from lorabel.inference.requests import Unreadable
from lorabel.labeling.label_config import RELATIONS_NAME, LabelConfig
from lorabel.labeling.regions import Region, is_relation
from lorabel.labeling.rules import BoundRules, Removal
from lorabel.labeling.visible_when import regions_shown_to, shown_controls
from lorabel.problems.base import Prediction, Problem, TaskData
from lorabel.problems.binding import BoundConfig

log = logging.getLogger(__name__)

Answers = dict[str, Prediction | Unreadable]
"""What the bindings say about one task, by `from_name`."""


@dataclass(frozen=True)
class TaskPrediction:
    """What is predicted for one task.

    Attributes:
        regions: those of every control tag that was answered and that Label Studio shows (`visibleWhen`). Each
            region fits the label config.
        score: mean score of these control tags, in [0, 1].
        margin: mean margin of these control tags, in [0, 1]; a tag without a margin counts with its score.
        unreadable: why a control tag has no answer, or None if all have one. Of several reasons this is one that
            may pass, if there is such a reason.
        dropped_regions: number of regions that did not fit the label config.
        removals: what the project's rules have removed. Score, margin and `dropped_regions` are those of before.
    """

    regions: list[Region]
    score: float
    margin: float
    unreadable: Unreadable | None
    dropped_regions: int
    removals: tuple[Removal, ...] = ()

    @property
    def is_final(self) -> bool:
        """Whether asking again would give the same, so that Label Studio may keep it."""
        return self.unreadable is None or self.unreadable.is_permanent


def put_begun(answers: Answers, per_region: Sequence[Problem], results: Sequence[list[Region]]) -> None:
    """Predict regions that annotators drew, see `Problem.begun`, in place of those that were found.

    Args:
        per_region: the bindings that ask about each region.
        results: of the task's annotations.
    """
    begun = [region for binding in per_region for region in binding.begun(results)]
    for name in {region["from_name"] for region in begun}:
        answers[name] = Prediction([region for region in begun if region["from_name"] == name], 1.0)


def merge(project_id: int, bound: BoundConfig, answers: Answers) -> TaskPrediction:
    """Merge the answers of one task, by control tag, into its prediction."""
    config = bound.config
    predictions = {name: answer for name, answer in answers.items() if isinstance(answer, Prediction)}
    per_region = [
        each.from_name for each in bound.bindings if each.is_per_region and each.from_name in predictions
    ]
    about_task = {name: each.regions for name, each in predictions.items() if name not in per_region}
    shown_names = shown_controls(config, about_task)
    shown = {name: each for name, each in predictions.items() if name in shown_names}
    shown_regions = [region for each in shown.values() for region in each.regions]
    ids = {region.get("id") for region in shown_regions}
    answered = {name: predictions[name] for name in per_region}
    answered = {
        name: replace(
            each, regions=[region for region in each.regions if is_relation(region) or region["id"] in ids]
        )
        for name, each in answered.items()
    }
    shown |= shown_about_regions(config, shown_regions, answered)
    return merge_answers(project_id, config, list(answers.values()), list(shown.values()))


def merge_ruled(
    project_id: int, bound: BoundConfig, rules: BoundRules, answers: Answers, data: TaskData
) -> TaskPrediction:
    """Merge the answers of one task as `merge` does, without what the project's rules remove.

    The rules see what is shown. What they remove may hide other control tags, so they are applied until they
    remove nothing more. It shows none that were hidden. Score, margin and the number of regions that do not fit
    the label config are the model's, before the rules.
    """
    first = merged = merge(project_id, bound, answers)
    if not rules.rules:
        return first
    removals: list[Removal] = []
    answers = _only(answers, {id(region) for region in first.regions})
    per_region = {control.name for control in bound.config.controls if control.is_per_region}
    while True:
        shown = {id(region) for region in merged.regions}
        of_answers = [
            (name, region)
            for name, answer in answers.items()
            if isinstance(answer, Prediction)
            for region in answer.regions
        ]
        names = {id(region): name for name, region in of_answers}
        regions = [region for _, region in of_answers if id(region) in shown]
        left, removed = rules.apply(regions, data, per_region, partial(_score_of, answers, names))
        if not removed:
            break
        removals += removed
        by_id = {id(region): ruled for region, ruled in zip(regions, left, strict=True)}
        answers = {name: _replaced(answer, by_id) for name, answer in answers.items()}
        merged = merge(project_id, bound, answers)
    return replace(first, regions=merged.regions, removals=tuple(removals))


def _only(answers: Answers, shown: Set[int]) -> Answers:
    """The answers with these regions alone, by their `id()`."""
    return {
        name: replace(answer, regions=[region for region in answer.regions if id(region) in shown])
        if isinstance(answer, Prediction)
        else answer
        for name, answer in answers.items()
    }


def _score_of(answers: Answers, names: Mapping[int, str], region: Region, label: str) -> float:
    """How likely a label of a region is: by the region, else by the label, else by the whole answer.

    Args:
        names: the control tag whose answer has the region, by the region's `id()`.
    """
    answer = answers[names[id(region)]]
    assert isinstance(answer, Prediction)
    return float(region.get("score", answer.label_scores.get(label, answer.score)))


def _replaced(answer: Prediction | Unreadable, by_id: Mapping[int, Region | None]) -> Prediction | Unreadable:
    """An answer with the regions as the rules have left them.

    Args:
        by_id: by the `id()` of a region what is left of it; others stay.
    """
    if isinstance(answer, Unreadable):
        return answer
    left = (by_id.get(id(region), region) for region in answer.regions)
    return replace(answer, regions=[region for region in left if region is not None])


def shown_about_regions(
    config: LabelConfig, regions: Sequence[Region], answers: Mapping[str, Prediction]
) -> dict[str, Prediction]:
    """Return what the editor shows of answers about regions, see `regions_shown_to`.

    Args:
        regions: that the answers are about.
        answers: by control tag with `perRegion`, or RELATIONS_NAME.
    """
    shown_regions = [*regions, *(region for each in answers.values() for region in each.regions)]
    return {
        name: replace(
            each,
            regions=[
                region
                for region in regions_shown_to(config, name, shown_regions)
                if region.get("from_name", RELATIONS_NAME) == name
            ],
        )
        for name, each in answers.items()
    }


def merge_answers(
    project_id: int,
    config: LabelConfig,
    answers: Sequence[Prediction | Unreadable],
    shown: Sequence[Prediction],
) -> TaskPrediction:
    """Merge the answers that Label Studio shows of one task; the others may only have a reason."""
    reasons = [answer for answer in answers if isinstance(answer, Unreadable)]
    regions = [region for prediction in shown for region in prediction.regions]
    valid_regions = _without_loose_relations(
        [region for region in regions if _is_valid(project_id, config, region)]
    )
    return TaskPrediction(
        valid_regions,
        _mean([prediction.score for prediction in shown]),
        _mean([prediction.score if prediction.margin is None else prediction.margin for prediction in shown]),
        min(reasons, key=lambda reason: reason.is_permanent, default=None),
        len(regions) - len(valid_regions),
    )


def _without_loose_relations(regions: Sequence[Region]) -> list[Region]:
    """The regions without relations to others than these. The editor shows nothing of such a result."""
    ids = {region.get("id") for region in regions if not is_relation(region)}
    return [region for region in regions if not is_relation(region) or {region["from_id"], region["to_id"]} <= ids]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _is_valid(project_id: int, config: LabelConfig, region: Region) -> bool:
    errors = config.find_region_errors(region)
    if errors:
        log.error("project %d: a region is dropped: %s", project_id, "; ".join(errors))
    return not errors
