"""Why the model answers about a task as it does: what carried the answer, and the nearest annotated tasks."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from socket import socket
from time import monotonic

from backend.services import Services, explanation_slot
from lorabel.database import projects
from lorabel.database.tables import Project
from lorabel.errors import LorabelError, ModelServerBusyError, NotFoundError, RedactionError
from lorabel.explanations.explanation import ExplainedContent, TagExplanation, explain
from lorabel.explanations.nearest_tasks import LOOKED_THROUGH, annotated_hits
from lorabel.inference.disconnect import is_disconnected
from lorabel.inference.messages import Priority
from lorabel.inference.prediction import ProjectModel
from lorabel.inference.requests import PredictionCaller
from lorabel.problems.base import TaskData
from lorabel.redaction import Redactor
from lorabel.search.searcher import task_links

# So many of the nearest annotated tasks are shown.
NEAREST = 6
NONE_ANNOTATED = "none of the tasks that are alike is annotated"


@dataclass(frozen=True)
class NearTask:
    """An annotated task that is like the explained one.

    Attributes:
        similarity: cosine, in [-1, 1].
        labels: of its newest annotation, by control tag.
        url: in Label Studio; None if its address is not known.
    """

    task_id: int
    similarity: float
    labels: Mapping[str, Set[str]]
    url: str | None


@dataclass(frozen=True)
class TaskExplanation:
    """The explanation of a task.

    Attributes:
        version: whose answers are explained.
        nearest: annotated tasks, the most similar first.
        nearest_reason: why there are none; None if there are.
    """

    project: Project
    task_id: int
    data: TaskData
    version: str
    tags: Sequence[TagExplanation]
    nearest: Sequence[NearTask]
    nearest_reason: str | None


def explain_task(
    services: Services, project_id: int, task_id: int, label: str | None, client: socket | None
) -> TaskExplanation:
    """Explain what the live version answers about a task.

    Args:
        label: that is explained; None for the likeliest.
        client: the connection of who reads it. When it is closed, the rest is not computed.

    Raises:
        NotFoundError: no such project, or the task is not known here and Label Studio does not tell it.
        LabelConfigError: the label config cannot be read.
        ModelServerBusyError: too many others are being explained, or every thread for predictions is taken.
    """
    with services.store.read() as session:
        project = projects.get(session, project_id)
        model = ProjectModel.of(session, project, services.settings)
    data = services.previews.data(project, task_id)
    if data is None:
        raise NotFoundError(f"project {project_id} has no task {task_id} that Lorabel or Label Studio knows")
    resolve = services.authorizations.resolver(project, services.settings)
    # Low, so that the predictions of tasks that annotators open go first.
    deadline = monotonic() + services.settings.predict_timeout_s
    caller = PredictionCaller(
        services.model_client, project.id, Priority.BULK, deadline, lambda: is_disconnected(client)
    )
    with explanation_slot(services):
        tags = [_masked(tag, services.redactor) for tag in explain(model, data, resolve, caller, label)]
        nearest, reason = _nearest(services, project, task_id)
    return TaskExplanation(project, task_id, data, model.version, tags, nearest, reason)


def _masked(tag: TagExplanation, redactor: Redactor) -> TagExplanation:
    """Without personal data: a text may be in a file, or in base64, of which a task's masked data have nothing."""
    return replace(tag, contents=tuple(_masked_content(content, redactor) for content in tag.contents))


def _masked_content(content: ExplainedContent, redactor: Redactor) -> ExplainedContent:
    if content.weights.text is None:
        return content
    try:
        changed = {"text": redactor.masked(content.weights.text)}  # as long as before, so words keep their places
    except RedactionError as error:
        nothing = content.weights.model_copy(update={"text": None, "words": ()})
        return replace(content, weights=nothing, reason=str(error))
    return replace(content, weights=content.weights.model_copy(update=changed))


def _nearest(services: Services, project: Project, task_id: int) -> tuple[list[NearTask], str | None]:
    """The nearest annotated tasks, and why there are none."""
    try:
        alike = services.searcher.like_task(project.id, task_id, LOOKED_THROUGH)
    except ModelServerBusyError:
        raise
    except LorabelError as error:
        return [], str(error)
    annotated = annotated_hits(services.store, project.id, alike.hits, NEAREST)
    links = task_links(project, services.settings, [near.hit for near in annotated])
    nearest = [
        NearTask(near.hit.task_id, near.hit.similarity, near.labels, url)
        for near, url in zip(annotated, links, strict=True)
    ]
    return nearest, None if nearest else NONE_ANNOTATED
