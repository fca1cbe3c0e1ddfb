"""Predicts tasks: task data -> questions to the model server -> one checked prediction per task, in order.

Used by `/predict`, by bulk runs, and by the look-ahead, which predicts tasks before anybody opens them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from time import monotonic
from typing import Any, NamedTuple, Self

from sqlalchemy.orm import Session

from lorabel.contracts import Input, MediaRef
from lorabel.database import instructions, rules, versions
from lorabel.database.adapter_folders import tag_folder
from lorabel.database.tables import Project, served_name
from lorabel.database.task_features import labels_digest
from lorabel.errors import ModelServerError, UnreadableError
from lorabel.feature_contracts import HEADED, FeaturesInput
from lorabel.inference import requests
from lorabel.inference.answering_heads import answering_heads
from lorabel.inference.question import Question, is_late, prediction_of, read_answer
from lorabel.inference.requests import PredictionCaller, Unreadable
from lorabel.inference.task_prediction import (
    Answers,
    TaskPrediction,
    merge_answers,
    merge_ruled,
    put_begun,
    shown_about_regions,
)
from lorabel.labeling.label_config import RELATIONS_NAME
from lorabel.labeling.regions import Region
from lorabel.labeling.rules import NO_RULES, BoundRules
from lorabel.media.deadline import deadline
from lorabel.problems._pictures import identified
from lorabel.problems.base import Prediction, Problem, TaskData
from lorabel.problems.binding import BoundConfig, bind
from lorabel.problems.task_questions import build_input, with_resolved_media
from lorabel.settings import Settings

# Part of the time that is left in which texts of tasks are read; the rest is for the model server.
READING_PART = 0.5
THRESHOLD = "detector_threshold"
TRACKER = "tracker"
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
        offsets: by control tag the offset that goes with its temperature, see `Problem.has_offset`.
        rules: of the project, for predictions of whole tasks.
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
    offsets: dict[str, float] = field(default_factory=dict)
    rules: BoundRules = NO_RULES

    @classmethod
    def of(cls, session: Session, project: Project, settings: Settings, number: int | None = None) -> Self:
        """Load version `number` of the project, by default the live version, with the heads that answer now.

        Raises:
            LabelConfigError: the label config cannot be read.
        """
        number = project.live_number if number is None else number
        bound = bind(project.label_config or "").for_project(instructions.parameters(project))
        version = versions.get_serving(session, project.id, number) if number else None
        adapters = {} if version is None else versions.adapters_without_head(version)
        temperatures = {} if version is None else versions.temperatures(version)
        heads = {
            from_name: Head(f"{row.folder}/{tag_folder(from_name)}", row.labels, row.adapter)
            for from_name, row in answering_heads(session, project, version).items()
        }
        by_label = {} if version is None else versions.label_temperatures(version)
        offsets = {} if version is None else versions.offsets(version)
        model = cls(project.id, served_name(project, number), adapters, heads, temperatures, bound, settings)
        ruled = replace(model, offsets=offsets, rules=rules.bound(project, bound.config))
        return replace(ruled, threshold=_threshold(project.extra_params), label_temperatures=by_label)


def predict(
    model: ProjectModel,
    tasks: Sequence[TaskData],
    resolve: Callable[[MediaRef], MediaRef],
    caller: PredictionCaller,
    annotated: Sequence[Sequence[list[Region]]] = (),
) -> list[TaskPrediction]:
    """Predict tasks with one version of a project's model.

    Args:
        tasks: `data` of each task. Nothing else of a task is read.
        annotated: for each task the results of its annotations that are gone on with, see `results_to_go_on_with`;
            empty if there are none.
        resolve: adds the host and the token to a task's media, see `Authorizations.resolver`.

    Returns:
        One prediction per task, in order. After a failure, the remaining tasks are unreadable and late.

    Raises:
        ModelServerError: there is no answer at all.
    """
    bindings = [binding for binding in model.bound.bindings if not binding.is_per_region]
    now = monotonic()
    with deadline(now + READING_PART * (caller.deadline - now)):
        questions = [
            question
            for data, results in zip(tasks, annotated or [()] * len(tasks), strict=True)
            for question in questions_about(model, bindings, data, resolve, results)
        ]
    answers = iter(ask(caller, questions))
    by_task: list[Answers] = [{binding.from_name: next(answers) for binding in bindings} for _ in tasks]
    _answer_about_regions(model, tasks, by_task, resolve, caller, annotated)
    of_project = model.project_id, model.bound, model.rules
    return [merge_ruled(*of_project, *pair) for pair in zip(by_task, tasks, strict=True)]


def _answer_about_regions(
    model: ProjectModel,
    tasks: Sequence[TaskData],
    answers: Sequence[Answers],
    resolve: Callable[[MediaRef], MediaRef],
    caller: PredictionCaller,
    annotated: Sequence[Sequence[list[Region]]] = (),
) -> None:
    """Add what the bindings say that ask about each region, of the regions that the others have predicted.

    A binding that finds no region to ask about says nothing.

    Args:
        answers: of each task. Regions that are asked about get an id there, which the answers share.
        annotated: as for `predict`; see `Problem.begun`.
    """
    per_region = [binding for binding in model.bound.bindings if binding.is_per_region]
    asked: list[tuple[Answers, str, Question | Unreadable]] = []
    all_results = annotated or [()] * len(tasks)
    for data, of_task, results in zip(tasks, answers, all_results, strict=True) if per_region else ():
        put_begun(of_task, per_region, results)
        predicted = {name: answer for name, answer in of_task.items() if isinstance(answer, Prediction)}
        with_ids = {name: replace(each, regions=identified(each.regions)) for name, each in predicted.items()}
        regions = [region for prediction in with_ids.values() for region in prediction.regions]
        about = [each for binding in per_region if (each := binding.about(regions)) is not None]
        if about:
            of_task.update(with_ids)
        questions = questions_about(model, about, data, resolve)
        asked += [(of_task, each.from_name, question) for each, question in zip(about, questions, strict=True)]
    if not asked:
        return
    try:
        region_answers = ask(caller, [question for _, _, question in asked])
    except ModelServerError as error:
        region_answers = [Unreadable(str(error), is_permanent=False, is_late=True)] * len(asked)
    for (of_task, name, _), answer in zip(asked, region_answers, strict=True):
        of_task[name] = answer


def predict_prompted(
    model: ProjectModel,
    data: TaskData,
    context: Sequence[Region],
    resolve: Callable[[MediaRef], MediaRef],
    caller: PredictionCaller,
) -> TaskPrediction | None:
    """Answer a smart tool; see `Problem.prompted`. Only the binding that claims the newest region's tag is asked.

    What it finds is then asked about by the bindings that ask about each region, all at once.

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
        return merge_answers(
            model.project_id, model.bound.config, [Unreadable(str(error), error.is_permanent, is_late(error))], []
        )
    if contract is None:
        return None
    question = _question(model, binding, data, with_resolved_media(contract, resolve))
    (answer,) = ask(caller, [question])
    if not isinstance(answer, Prediction):
        return merge_answers(model.project_id, model.bound.config, [answer], [])
    if not answer.regions:
        return merge_answers(model.project_id, model.bound.config, [answer], [answer])
    of_task: Answers = {binding.from_name: answer}
    _answer_about_regions(model, [data], [of_task], resolve, caller)
    # What cannot be answered about the regions does not take them away.
    # The editor takes no relations between suggestions.
    predictions = {
        name: each for name, each in of_task.items() if isinstance(each, Prediction) and name != RELATIONS_NAME
    }
    prompted = predictions.pop(binding.from_name)
    of_regions = shown_about_regions(model.bound.config, prompted.regions, predictions)
    prompted = replace(prompted, regions=[*binding.repeated(context), *prompted.regions])
    return merge_answers(model.project_id, model.bound.config, [prompted], [prompted, *of_regions.values()])


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
            question if isinstance(question, Unreadable) else read_answer(question, next(outputs), prediction_of)
            for question in questions
        ]


def questions_about(
    model: ProjectModel,
    bindings: Sequence[Problem],
    data: TaskData,
    resolve: Callable[[MediaRef], MediaRef],
    results: Sequence[list[Region]] = (),
) -> list[Question | Unreadable]:
    """One question per binding, in the order of the bindings.

    Args:
        results: see `Problem.going_on`.
    """
    questions: list[Question | Unreadable] = []
    for binding in bindings:
        try:
            contract = with_resolved_media(build_input(binding, data, model.settings), resolve)
            if results and TRACKER in model.settings.models:
                contract = binding.going_on(contract, data, results)
        except UnreadableError as error:
            questions.append(Unreadable(str(error), error.is_permanent, is_late(error)))
        else:
            questions.append(_question(model, binding, data, contract))
    return questions


def _question(model: ProjectModel, binding: Problem, data: TaskData, contract: Input) -> Question:
    """A head answers with the adapter that it was fitted with, and needs no temperature: it is calibrated."""
    name = binding.from_name
    if model.threshold is not None:
        contract = binding.shown_from(contract, model.threshold)
    head = model.heads.get(name)
    is_headed = isinstance(contract, HEADED)
    if head is not None and is_headed and labels_digest(FeaturesInput.of(contract)) == head.labels:
        return Question(binding, data, contract, head.adapter, head.name, threshold=model.threshold)
    temperature = model.temperatures.get(name)
    by_label = model.label_temperatures.get(name, {})
    offset = model.offsets.get(name, 0.0)
    return Question(
        binding, data, contract, model.adapters.get(name), None, temperature, model.threshold, by_label, offset
    )


def _threshold(extra_params: Any) -> float | None:
    """The number from 0 to 1 that a project's extra params have under THRESHOLD."""
    value = extra_params.get(THRESHOLD) if isinstance(extra_params, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 <= value <= 1 else None
