"""Task data -> rows for the model server -> predictions, one per task and in order, checked for Label Studio.

For whoever predicts: `/predict`, a bulk run, or nobody yet (tasks predicted ahead).
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

from sqlalchemy.orm import Session

from lorabel.contracts import MediaRef
from lorabel.database import versions
from lorabel.database.tables import Project, version_name
from lorabel.errors import UnreadableError
from lorabel.inference.requests import PredictionCaller, Question, Unreadable, ask
from lorabel.labeling.label_config import LabelConfig
from lorabel.labeling.regions import Region
from lorabel.labeling.visible_when import shown_controls
from lorabel.problems.base import Prediction, TaskData, question, with_media
from lorabel.problems.binding import BoundConfig, bind
from lorabel.settings import Settings

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ProjectModel:
    """One version of a project's model: what the label config asks, which adapters answer, and the temperatures of
    their scores; both by control tag."""

    project_id: int
    version: str
    adapters: dict[str, str]
    temperatures: dict[str, float]
    bound: BoundConfig
    settings: Settings

    @classmethod
    def of(cls, session: Session, project: Project, settings: Settings, number: int | None = None) -> Self:
        """The live version, or `number`.

        Raises:
            LabelConfigError: the label config cannot be read.
        """
        number = project.live_number if number is None else number
        bound = bind(project.label_config or "")
        version = versions.get(session, project.id, number) if number else None
        adapters = {} if version is None else version.adapters
        temperatures = {} if version is None else versions.temperatures(version)
        return cls(project.id, version_name(project.id, number), adapters, temperatures, bound, settings)


@dataclass(frozen=True)
class TaskPrediction:
    """The regions of every control tag that was read and is shown with them, each right by the label config, and
    their mean score.

    `margin`: the mean of theirs; where a problem cannot say, its score stands for it.
    `unread` says why another tag was not; a reason that may pass goes before one that never will.
    `dropped_regions`: how many were wrong by the label config.
    """

    regions: list[Region]
    score: float
    margin: float
    unread: Unreadable | None
    dropped_regions: int

    @property
    def is_final(self) -> bool:
        """Whether asking again would give the same, so that Label Studio may keep it."""
        return self.unread is None or self.unread.is_permanent


def predict(
    model: ProjectModel,
    tasks: Sequence[TaskData],
    resolve: Callable[[MediaRef], MediaRef],
    caller: PredictionCaller,
) -> list[TaskPrediction]:
    """One per task, in order.

    Args:
        tasks: each task's `data`; nothing else of a task is ever looked at.
        resolve: from `Authorizations.resolver`.

    Raises:
        ModelServerError: nothing at all could be asked. A failure later on leaves the rest unread and late.
    """
    per_task = len(model.bound.bindings)
    questions = [one for data in tasks for one in _questions(model, data, resolve)]
    answers = ask(caller, questions)
    return [_merge(model, answers[i * per_task : (i + 1) * per_task]) for i in range(len(tasks))]


def _questions(
    model: ProjectModel, data: TaskData, resolve: Callable[[MediaRef], MediaRef]
) -> list[Question | Unreadable]:
    """One per binding, in the bindings' order."""
    questions: list[Question | Unreadable] = []
    for binding in model.bound.bindings:
        try:
            asked = with_media(question(binding, data, model.settings), resolve)
        except UnreadableError as error:
            questions.append(Unreadable(str(error), error.is_permanent))
        else:
            name = binding.from_name
            temperature = model.temperatures.get(name, 1.0)
            questions.append(Question(binding, data, asked, model.adapters.get(name), temperature))
    return questions


def _merge(model: ProjectModel, found: Sequence[Prediction | Unreadable]) -> TaskPrediction:
    reasons = sorted((one for one in found if isinstance(one, Unreadable)), key=lambda one: one.is_permanent)
    answered = {
        binding.from_name: one
        for binding, one in zip(model.bound.bindings, found, strict=True)
        if isinstance(one, Prediction)
    }
    shown = shown_controls(model.bound.config, {name: one.regions for name, one in answered.items()})
    predictions = [one for name, one in answered.items() if name in shown]
    regions = [region for prediction in predictions for region in prediction.regions]
    right = [region for region in regions if _is_right(model.project_id, model.bound.config, region)]
    return TaskPrediction(
        right,
        _mean([one.score for one in predictions]),
        _mean([one.score if one.margin is None else one.margin for one in predictions]),
        reasons[0] if reasons else None,
        len(regions) - len(right),
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _is_right(project_id: int, config: LabelConfig, region: Region) -> bool:
    errors = config.find_region_errors(region)
    if errors:
        log.error("project %d: a region is dropped: %s", project_id, "; ".join(errors))
    return not errors
