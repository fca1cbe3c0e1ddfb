"""Answers `/predict`: one entry per task, in order, even if some tasks fail.

A task that cannot be read now gets None, which is sent as `[]`: Label Studio saves nothing and asks again. A task
that can never be read gets an entry with an empty result, which Label Studio saves. Annotations that come with a
task are not read. If a request for many tasks ("Retrieve Predictions") runs out of time, a bulk run predicts the
rest.
"""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from socket import socket
from time import monotonic

from sqlalchemy.exc import SQLAlchemyError

from backend import editor_explanations, http_bodies
from backend.live_projects import LiveProject
from backend.services import Services, prediction_slot
from lorabel.contracts import MediaRef
from lorabel.database import bulk_runs, instructions, rule_effects
from lorabel.database.tables import Project
from lorabel.database.versions import rules_number
from lorabel.errors import ConflictError, LabelConfigError, ModelServerError, RedactionError
from lorabel.inference import prediction, unreadable_tasks
from lorabel.inference.begun import results_to_go_on_with
from lorabel.inference.disconnect import is_disconnected
from lorabel.inference.messages import Priority
from lorabel.inference.prediction import ProjectModel
from lorabel.inference.requests import PredictionCaller
from lorabel.inference.task_prediction import TaskPrediction
from lorabel.label_studio.access import require_api_access
from lorabel.labeling.redacted_bodies import RedactedBody
from lorabel.labeling.regions import Region
from lorabel.problems.binding import bind

log = logging.getLogger(__name__)

Entry = http_bodies.PredictionEntry | None


def predict(
    services: Services,
    body: http_bodies.Predict,
    client: socket | None = None,
    *,
    afterwards: list[Callable[[], object]],
) -> list[Entry]:
    """Predict the tasks of a request.

    Args:
        client: the connection to Label Studio. When it is closed, the rest is not computed.
        afterwards: gets what is to be called once the answer is sent, since it may have to wait for the database.

    Returns:
        An entry or None per task, in order.

    Raises:
        ConflictError: it cannot be told whose tasks these are.
        ModelServerBusyError: the model server's queue is full, or all our threads for predictions are taken.
        ModelServerError: the model server cannot be reached or failed.
    """
    deadline = monotonic() + services.settings.predict_timeout_s
    try:
        bind(body.label_config)
    except LabelConfigError as error:
        log.error("%s: no predictions, %s", body.key, error)
        return [None] * len(body.tasks)
    live = services.live_projects.get(body.key, body.label_config)
    if not live.model.bound.bindings:
        services.metrics.unserved_tasks.inc(len(body.tasks))
        log.info("project %d: nobody serves its control tags, %d tasks", live.project.id, len(body.tasks))
        entries: list[Entry] = [None] * len(body.tasks)
    elif body.params.is_blank:
        # Whatever the editor gets it adds to the annotation.
        log.info("%s: a smart tool asks although nothing is drawn, and gets nothing", body.key)
        entries = [None] * len(body.tasks)
    else:
        with prediction_slot(services):
            entries = _predict(services, live, body, deadline, client, afterwards)
    return [entry or _empty_entry(live.model) for entry in entries] if _is_smart_tool(body) else entries


def is_opened_by_annotator(body: http_bodies.Predict) -> bool:
    """Whether an annotator has opened this task and will go on to the next."""
    return len(body.tasks) == 1 and not _is_smart_tool(body)


def _is_smart_tool(body: http_bodies.Predict) -> bool:
    return body.params.context is not None


def _predict(
    services: Services,
    live: LiveProject,
    body: http_bodies.Predict,
    deadline: float,
    client: socket | None,
    afterwards: list[Callable[[], object]],
) -> list[Entry]:
    project, model = live.project, live.model
    resolve = services.authorizations.resolver(
        project, services.settings, on_refusal=services.metrics.refused_tokens.inc
    )
    # A request for one task, for which an annotator waits, goes before a request for many.
    priority = Priority.INTERACTIVE if len(body.tasks) == 1 else Priority.BULK
    caller = PredictionCaller(
        services.model_client, project.id, priority, deadline, lambda: is_disconnected(client)
    )
    try:
        prompted = _prompted(services, model, body, resolve, caller)
        predictions = prompted or _unprompted(services, model, body, resolve, caller, afterwards)
    except ModelServerError:
        if priority == Priority.BULK and _predict_later(services, project, [task.id for task in body.tasks]):
            return [None] * len(body.tasks)
        raise
    _count(services, predictions)
    reasons = {
        task.id: unreadable_tasks.masked(task_prediction.unreadable, services.redactor, task.data)
        for task, task_prediction in zip(body.tasks, predictions, strict=True)
    }
    late_ids = [task_id for task_id, reason in reasons.items() if reason is not None and reason.is_late]
    if priority == Priority.BULK and late_ids:
        # If Label Studio has closed the connection, it does not get the other predictions either.
        _predict_later(services, project, [*reasons] if is_disconnected(client) else late_ids)
    # Late tasks are not noted here: the bulk run does that, and writing thousands of rows would take too long now.
    # Whether what was drawn can be answered says nothing about the task.
    noted = {
        task_id: reason
        for task_id, reason in reasons.items()
        if not prompted and (reason is None or not reason.is_late)
    }
    unreadable_tasks.write(services.store, project.id, noted, live.unreadable_task_ids)
    if prompted:
        explanations: Sequence[Sequence[Region]] = [()] * len(predictions)
    else:
        explanations = editor_explanations.explain(services, model, body.tasks, predictions, resolve, caller)
    return [
        _entry(model, task_prediction, explanation) if task_prediction.is_final else None
        for task_prediction, explanation in zip(predictions, explanations, strict=True)
    ]


def _unprompted(
    services: Services,
    model: ProjectModel,
    body: http_bodies.Predict,
    resolve: Callable[[MediaRef], MediaRef],
    caller: PredictionCaller,
    afterwards: list[Callable[[], object]],
) -> list[TaskPrediction]:
    """The predictions of the tasks, which go on with what annotators have begun."""
    annotated = results_to_go_on_with(services.store, model, [task.id for task in body.tasks])
    predictions = prediction.predict(model, [task.data for task in body.tasks], resolve, caller, annotated)
    afterwards += _note_removals(services, model, body, predictions)
    return predictions


def _prompted(
    services: Services,
    model: ProjectModel,
    body: http_bodies.Predict,
    resolve: Callable[[MediaRef], MediaRef],
    caller: PredictionCaller,
) -> list[TaskPrediction]:
    """The answer to a smart tool; none if the request is to be answered like any other.

    Label Studio shows nothing to the annotator who gets no region, so each such case is logged and counted.
    """
    if len(body.tasks) != 1 or not body.params.regions:
        return []
    (task,) = body.tasks
    try:
        answer = prediction.predict_prompted(model, task.data, body.params.regions, resolve, caller)
    except ModelServerError:
        services.metrics.smart_tool_calls.labels("failed").inc()
        raise
    if answer is None:
        return []
    outcome = "answered" if answer.regions else "empty" if answer.unreadable is None else "unreadable"
    services.metrics.smart_tool_calls.labels(outcome).inc()
    if not answer.regions:
        unreadable = unreadable_tasks.masked(answer.unreadable, services.redactor, task.data)
        reason = "the model finds nothing" if unreadable is None else unreadable.reason
        log.warning("project %d, task %d: a smart tool gets no region: %s", model.project_id, task.id, reason)
    else:
        _note_typed(services, model, task, body, answer)
    return [answer]


def _note_typed(
    services: Services,
    model: ProjectModel,
    task: http_bodies.Task,
    body: http_bodies.Predict,
    answer: TaskPrediction,
) -> None:
    """Remember the answer to a prompt box: what was typed is kept if the annotator submits it unchanged.

    The annotator gets the answer also where it cannot be remembered.
    """
    context = body.params.regions
    bindings = (each for each in model.bound.bindings if context[-1].get("from_name") in each.claims)
    binding = next(bindings, None)
    instruction = None if binding is None else binding.typed_instruction(context)
    if binding is None or instruction is None:
        return
    try:
        # As the annotation will be masked, whose text is compared with the answer's.
        masked = RedactedBody(services.redactor).of(
            {"data": task.data, "text": instruction, "result": answer.regions}
        )
        instructions.note_typed(
            services.store, model.project_id, task.id, binding.from_name, masked["text"], masked["result"]
        )
    except (SQLAlchemyError, RedactionError):
        log.exception("project %d, task %d: an instruction cannot be remembered", model.project_id, task.id)


def _note_removals(
    services: Services, model: ProjectModel, body: http_bodies.Predict, predictions: Sequence[TaskPrediction]
) -> list[Callable[[], object]]:
    """Count what the project's rules have removed. Returns what stores it so that people see it, if anything."""
    by_task = dict(zip((task.id for task in body.tasks), predictions, strict=True))
    removals = {task_id: each.removals for task_id, each in by_task.items() if each.is_final}
    for removal in (removal for of_task in removals.values() for removal in of_task):
        services.metrics.rule_removals.labels(model.project_id, removal.rule).inc()
    if not rules_number(model.version):
        return []
    return [
        partial(rule_effects.write, services.store, services.redactor, model.project_id, model.version, removals)
    ]


def _count(services: Services, predictions: Sequence[TaskPrediction]) -> None:
    for task_prediction in predictions:
        services.metrics.dropped_regions.inc(task_prediction.dropped_regions)
        if task_prediction.unreadable is None:
            services.metrics.predictions.inc()
        else:
            is_permanent = str(task_prediction.unreadable.is_permanent).lower()
            services.metrics.unread_tasks.labels(is_permanent).inc()


def _predict_later(services: Services, project: Project, task_ids: Sequence[int]) -> bool:
    """Queue a bulk run, since Label Studio does not repeat "Retrieve Predictions" by itself.

    Returns:
        False if we have no token to write the predictions to Label Studio.
    """
    try:
        require_api_access(project, services.settings)
    except ConflictError as error:
        log.warning("%d tasks stay without a prediction: %s", len(task_ids), error)
        return False
    reason = "what one request for predictions had no time for"
    run = bulk_runs.request(services.store, project.id, reason, task_ids=task_ids)
    log.info("project %d: %d tasks go on as bulk run %d", project.id, len(task_ids), run.id)
    services.jobs.carry_out(run)
    return True


def _entry(
    model: ProjectModel, task_prediction: TaskPrediction, explanation: Sequence[Region]
) -> http_bodies.PredictionEntry:
    regions = [*task_prediction.regions, *explanation]
    return http_bodies.PredictionEntry(result=regions, score=task_prediction.score, model_version=model.version)


def _empty_entry(model: ProjectModel) -> http_bodies.PredictionEntry:
    """For smart tools, which need an entry for each task. Label Studio shows it at once and never saves it."""
    return http_bodies.PredictionEntry(result=[], score=0.0, model_version=model.version)
