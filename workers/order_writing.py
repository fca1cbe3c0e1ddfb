"""Writes an order of open tasks to Label Studio, as predictions whose score is the task's position.

Label Studio 1.23.2 has one order that others can set: with "Uncertainty sampling" the labeling stream takes open
tasks by ascending score of the predictions whose version is the project's `model_version`. In a connected project
that is our backend's title, not our version. So the order is written as predictions of that name: the score is the
task's position in the order, and the regions are what the live version predicts, for annotators who open the task
in the Data Manager (whose column "Prediction score" shows the position). The labeling stream itself still asks for
predictions of the live version and shows them.

An order that is renewed is written for its first tasks alone, so that a renewal is small: tasks that are still
among the first keep their prediction. If people annotate all of these before the renewal, Label Studio takes open
tasks at random. It also takes any of the tasks with a position, whatever their score, in a project with a team.
"""

from collections.abc import Sequence

from lorabel.curation.strategy import Strategy
from lorabel.database import leases, rule_effects
from lorabel.database.tables import BulkRunKind
from lorabel.errors import LabelStudioError, LorabelError
from lorabel.inference.task_prediction import TaskPrediction
from lorabel.label_studio.client import UNCERTAINTY
from lorabel.label_studio.records import AnnotatedTask, NewPrediction
from workers.bulk_runs import ConnectedContext
from workers.retries import try_again

# An order that is renewed after n annotations has n times as many tasks as this.
FIRST_TASKS = 5


def write_order(
    context: ConnectedContext, predicted_tasks: Sequence[tuple[AnnotatedTask, TaskPrediction]]
) -> None:
    """Replace the former order, if there is one.

    Args:
        predicted_tasks: all open tasks that can be read, the first to be labeled first.
    """
    leases.report(context.services.store, context.run)
    with context.pace.request():
        title = _backend_title(context)
    renew_after = context.services.settings.order_renew_after
    is_renewed = context.run.strategy == Strategy.AUTO and renew_after > 0
    first = predicted_tasks[: FIRST_TASKS * renew_after] if is_renewed else predicted_tasks
    rows = [
        NewPrediction(task.task_id, predicted.regions, position / len(first), title)
        for position, (task, predicted) in enumerate(first, start=1)
    ]
    removals = {task.task_id: predicted.removals for task, predicted in first}
    services = context.services
    rule_effects.write(services.store, services.redactor, context.project.id, context.model.version, removals)
    former = {task.task_id: task.prediction_ids[title] for task, _ in predicted_tasks if title in task.versions}
    if context.run.kind == BulkRunKind.ORDER_RENEWAL:
        _add(context, [row for row in rows if row.task_id not in former])
        stale = former.keys() - {row.task_id for row in rows}
        _delete(context, [prediction_id for task_id in sorted(stale) for prediction_id in former[task_id]])
        return
    if former:
        context.client.delete_predictions(context.project.label_studio_id, title)
    _select_model(context, title)
    _add(context, rows)


def _add(context: ConnectedContext, rows: Sequence[NewPrediction]) -> None:
    size = context.services.settings.bulk_page
    for start in range(0, len(rows), size):
        leases.report(context.services.store, context.run)
        with context.pace.request():
            context.client.add_predictions(context.project.label_studio_id, rows[start : start + size])


def _delete(context: ConnectedContext, prediction_ids: Sequence[int]) -> None:
    """Delete predictions one by one: unlike all at once, this leaves the project its model."""
    for prediction_id in prediction_ids:
        leases.report(context.services.store, context.run)
        with context.pace.request():
            context.client.delete_prediction(prediction_id)


def _select_model(context: ConnectedContext, title: str) -> None:
    """Make `title` the project's model, and "Uncertainty sampling" its order.

    Label Studio unsets the project's model when the former order is deleted, and nobody gets a prediction until it
    is set again. So this is tried several times, and after a kill by the next worker.
    """

    project_id = context.project.label_studio_id

    def attempt() -> None:
        with context.pace.request():
            context.client.update_project(project_id, model_version=title, sampling=UNCERTAINTY)

    name = f"giving project {context.run.project_id} its model back"
    try:
        try_again(attempt, name, lambda error: isinstance(error, LabelStudioError))
    except LabelStudioError as error:
        raise LabelStudioError(f"{error}; `lorabel connect` gives the project its model back") from error


def _backend_title(context: ConnectedContext) -> str:
    backends = context.client.backends(context.project.label_studio_id)
    url = (context.project.backend_url or "").rstrip("/")
    title = next((backend.title for backend in backends if backend.url.rstrip("/") == url), None)
    if title is None:
        raise LorabelError(
            f"our backend {url!r} is not among those of project {context.project.id}, so its labeling stream "
            "cannot be ordered; connect it with `lorabel connect`"
        )
    return title
