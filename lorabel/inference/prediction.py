"""Predicts tasks: task data -> questions to the model server -> one checked prediction per task, in order.

Used by `/predict`, by bulk runs, and by the look-ahead, which predicts tasks before anybody opens them.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from time import monotonic
from typing import Any, NamedTuple, Self

from pydantic import ValidationError
from sqlalchemy.orm import Session

from lorabel.contracts import Input, MediaRef
from lorabel.database import versions
from lorabel.database.adapter_folders import tag_folder
from lorabel.database.tables import Project, served_name
from lorabel.database.task_features import labels_digest
from lorabel.errors import UnreadableError, cut
from lorabel.feature_contracts import FeaturesInput
from lorabel.inference import requests
from lorabel.inference.answering_heads import answering_heads
from lorabel.inference.messages import PredictRow
from lorabel.inference.requests import Output, PredictionCaller, Unreadable
from lorabel.labeling.label_config import LabelConfig
from lorabel.labeling.regions import Region
from lorabel.labeling.visible_when import shown_controls
from lorabel.media.deadline import deadline, is_deadline_over
from lorabel.problems.base import Prediction, Problem, TaskData, build_input, with_resolved_media
from lorabel.problems.binding import BoundConfig, bind
from lorabel.settings import Settings

log = logging.getLogger(__name__)

# Part of the time that is left in which texts of tasks are read; the rest is for the model server.
READING_PART = 0.5
THRESHOLD = "detector_threshold"
LATE = "the time for one prediction is up (PREDICT_TIMEOUT_S)"


class Head(NamedTuple):
    """A fitted head.

    Attributes:
        name: of its file.
        labels: digest of the labels that it answers for.
        adapter: name of the adapter that it was fitted with; None for the base model alone.
    """

    name: str
    labels: str
    adapter: str | None


@dataclass(frozen=True)
class ProjectModel:
    """One version of a project's model.

    Attributes:
        version: name of what answers, under which Label Studio stores predictions (`Project.served_version`).
        adapters: by control tag the name of the adapter that answers without a head; the base model answers for
            other tags.
        heads: by control tag the fitted head that answers, with the adapter that it was fitted with.
        temperatures: by control tag the temperature that calibrates its scores; none for tags that nothing has
            calibrated.
        label_temperatures: by control tag those of labels that have one of their own.
        bound: the label config with the problems that serve it.
        threshold: smallest score of a region that is shown, from the project's extra params; None without one.
    """

    project_id: int
    version: str
    adapters: dict[str, str]
    heads: dict[str, Head]
    temperatures: dict[str, float]
    bound: BoundConfig
    settings: Settings
    threshold: float | None = None
    label_temperatures: dict[str, dict[str, float]] = field(default_factory=dict)

    @classmethod
    def of(cls, session: Session, project: Project, settings: Settings, number: int | None = None) -> Self:
        """Load version `number` of the project, by default the live version, with the heads that answer now.

        Raises:
            LabelConfigError: the label config cannot be read.
        """
        number = project.live_number if number is None else number
        bound = bind(project.label_config or "")
        version = versions.get_serving(session, project.id, number) if number else None
        adapters = {} if version is None else versions.adapters_without_head(version)
        temperatures = {} if version is None else versions.temperatures(version)
        heads = {
            from_name: Head(f"{row.folder}/{tag_folder(from_name)}", row.labels, row.adapter)
            for from_name, row in answering_heads(session, project, version).items()
        }
        name = served_name(project, number)
        threshold = _threshold(project.extra_params)
        by_label = {} if version is None else versions.label_temperatures(version)
        return cls(project.id, name, adapters, heads, temperatures, bound, settings, threshold, by_label)


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
    """

    regions: list[Region]
    score: float
    margin: float
    unreadable: Unreadable | None
    dropped_regions: int

    @property
    def is_final(self) -> bool:
        """Whether asking again would give the same, so that Label Studio may keep it."""
        return self.unreadable is None or self.unreadable.is_permanent


@dataclass(frozen=True)
class Question:
    """What one binding asks the model about one task.

    Attributes:
        adapter: name of the adapter that answers; None for the base model.
        head: name of the fitted head that answers; None for none.
        temperature: for the output's probabilities, as the version was calibrated; None if it was not.
        threshold: smallest score of a region that is shown; None: as the problem or the settings say.
        by_label: temperatures of labels that have one of their own.
    """

    binding: Problem
    data: TaskData
    contract: Input
    adapter: str | None
    head: str | None = None
    temperature: float | None = None
    threshold: float | None = None
    by_label: dict[str, float] = field(default_factory=dict)

    def row(self) -> PredictRow:
        """The question as a row of a request to the model server."""
        contract = self.contract.model_dump(mode="json")
        return PredictRow(kind=self.contract.kind, input=contract, adapter=self.adapter, head=self.head)


def predict(
    model: ProjectModel,
    tasks: Sequence[TaskData],
    resolve: Callable[[MediaRef], MediaRef],
    caller: PredictionCaller,
) -> list[TaskPrediction]:
    """Predict tasks with one version of a project's model.

    Args:
        tasks: `data` of each task. Nothing else of a task is read.
        resolve: adds the host and the token to a task's media, see `Authorizations.resolver`.

    Returns:
        One prediction per task, in order. After a failure, the remaining tasks are unreadable and late.

    Raises:
        ModelServerError: there is no answer at all.
    """
    bindings = len(model.bound.bindings)
    now = monotonic()
    with deadline(now + READING_PART * (caller.deadline - now)):
        questions = [question for data in tasks for question in _questions(model, data, resolve)]
    answers = ask(caller, questions)
    return [_merge(model, answers[i * bindings : (i + 1) * bindings]) for i in range(len(tasks))]


def predict_prompted(
    model: ProjectModel,
    data: TaskData,
    context: Sequence[Region],
    resolve: Callable[[MediaRef], MediaRef],
    caller: PredictionCaller,
) -> TaskPrediction | None:
    """Answer a smart tool; see `Problem.prompted`. Only the binding that claims the newest region's tag is asked.

    Args:
        context: what the annotator has drawn, the newest region last.

    Returns:
        None if the context comes from no smart tool that is answered otherwise than any request for a prediction.

    Raises:
        ModelServerError: there is no answer.
    """
    asker = context[-1].get("from_name") if context else None
    binding = next((each for each in model.bound.bindings if asker in each.claims), None)
    if binding is None:
        return None
    try:
        contract = binding.prompted(build_input(binding, data, model.settings), context)
    except UnreadableError as error:
        return _merge_answers(model, [Unreadable(str(error), error.is_permanent, _is_late(error))], [])
    if contract is None:
        return None
    question = _question(model, binding, data, with_resolved_media(contract, resolve))
    (answer,) = ask(caller, [question])
    if not isinstance(answer, Prediction):
        return _merge_answers(model, [answer], [])
    if answer.regions:
        answer = replace(answer, regions=[*binding.repeated(context), *answer.regions])
    return _merge_answers(model, [answer], [answer])


def ask(caller: PredictionCaller, questions: Sequence[Question | Unreadable]) -> list[Prediction | Unreadable]:
    """Ask the model server.

    Args:
        questions: an Unreadable stands for a task that cannot be asked about. It is returned as it is.

    Returns:
        One answer per question, in order.

    Raises:
        ModelServerError: there is no answer at all.
    """
    rows = [question.row() for question in questions if isinstance(question, Question)]
    outputs = iter(requests.send(caller, rows, LATE))
    with deadline(caller.deadline):
        return [
            question if isinstance(question, Unreadable) else _prediction(question, next(outputs))
            for question in questions
        ]


def _questions(
    model: ProjectModel, data: TaskData, resolve: Callable[[MediaRef], MediaRef]
) -> list[Question | Unreadable]:
    """One question per binding, in the order of the bindings."""
    questions: list[Question | Unreadable] = []
    for binding in model.bound.bindings:
        try:
            contract = with_resolved_media(build_input(binding, data, model.settings), resolve)
        except UnreadableError as error:
            questions.append(Unreadable(str(error), error.is_permanent, _is_late(error)))
        else:
            questions.append(_question(model, binding, data, contract))
    return questions


def _question(model: ProjectModel, binding: Problem, data: TaskData, contract: Input) -> Question:
    """A head answers with the adapter that it was fitted with, and needs no temperature: it is calibrated."""
    name = binding.from_name
    head = model.heads.get(name)
    if head is not None and labels_digest(FeaturesInput.of(contract)) == head.labels:
        return Question(binding, data, contract, head.adapter, head.name, threshold=model.threshold)
    temperature = model.temperatures.get(name)
    by_label = model.label_temperatures.get(name, {})
    return Question(
        binding, data, contract, model.adapters.get(name), None, temperature, model.threshold, by_label
    )


def _threshold(extra_params: Any) -> float | None:
    """The number from 0 to 1 that a project's extra params have under THRESHOLD."""
    value = extra_params.get(THRESHOLD) if isinstance(extra_params, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 <= value <= 1 else None


def _is_late(error: UnreadableError) -> bool:
    return not error.is_permanent and is_deadline_over()


def _prediction(question: Question, answer: Output | Unreadable) -> Prediction | Unreadable:
    """Read the model server's output, which may be wrong in any way, as a prediction."""
    if isinstance(answer, Unreadable):
        return answer
    try:
        output = question.binding.output_type.model_validate(answer)
        prediction = _scored(question, output)
    except UnreadableError as error:
        return Unreadable(str(error), error.is_permanent, _is_late(error))
    except (ValidationError, ValueError, LookupError) as error:
        return _broken(question, f"{type(error).__name__}: {error}")
    if not isfinite(prediction.score):
        return _broken(question, f"score {prediction.score}")
    return prediction


def _scored(question: Question, output: Any) -> Prediction:
    """The prediction with calibrated scores.

    Calibration changes only the scores: the regions are those that were evaluated. A project's threshold is for
    calibrated scores.
    """
    binding, temperature = question.binding, question.temperature
    if temperature is None:
        temperature = binding.default_temperature(output)
    calibrated_output = output if temperature == 1 else binding.calibrated(output, temperature)
    if question.by_label:
        has_threshold = question.threshold is not None
        calibrated_output = binding.calibrated_by_label(
            output, temperature, question.by_label, is_for_threshold=has_threshold
        )
    if question.threshold is not None and binding.has_threshold:
        limited = binding.with_threshold(calibrated_output, question.threshold)
        return binding.prediction(limited, question.data)
    prediction = binding.prediction(output, question.data)
    if calibrated_output is output:
        return prediction
    calibrated = binding.prediction(calibrated_output, question.data)
    is_same = _without_scores(calibrated.regions) == _without_scores(prediction.regions)
    return calibrated if is_same else replace(calibrated, regions=prediction.regions)


def _without_scores(regions: Sequence[Region]) -> list[Region]:
    return [{key: value for key, value in region.items() if key != "score"} for region in regions]


def _broken(question: Question, what: str) -> Unreadable:
    reason = cut(
        f"the model server's answer for control tag {question.binding.from_name!r} makes no sense: {what}"
    )
    log.error(reason)
    return Unreadable(reason, is_permanent=False)


def _merge(model: ProjectModel, answers: Sequence[Prediction | Unreadable]) -> TaskPrediction:
    """Merge the answers of one task, one per binding, into its prediction."""
    predictions = {
        binding.from_name: answer
        for binding, answer in zip(model.bound.bindings, answers, strict=True)
        if isinstance(answer, Prediction)
    }
    shown_names = shown_controls(
        model.bound.config, {name: prediction.regions for name, prediction in predictions.items()}
    )
    return _merge_answers(
        model, answers, [prediction for name, prediction in predictions.items() if name in shown_names]
    )


def _merge_answers(
    model: ProjectModel, answers: Sequence[Prediction | Unreadable], shown: Sequence[Prediction]
) -> TaskPrediction:
    """Merge the answers that Label Studio shows of one task; the others may only have a reason."""
    reasons = [answer for answer in answers if isinstance(answer, Unreadable)]
    regions = [region for prediction in shown for region in prediction.regions]
    valid_regions = [region for region in regions if _is_valid(model.project_id, model.bound.config, region)]
    return TaskPrediction(
        valid_regions,
        _mean([prediction.score for prediction in shown]),
        _mean([prediction.score if prediction.margin is None else prediction.margin for prediction in shown]),
        min(reasons, key=lambda reason: reason.is_permanent, default=None),
        len(regions) - len(valid_regions),
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _is_valid(project_id: int, config: LabelConfig, region: Region) -> bool:
    errors = config.find_region_errors(region)
    if errors:
        log.error("project %d: a region is dropped: %s", project_id, "; ".join(errors))
    return not errors
