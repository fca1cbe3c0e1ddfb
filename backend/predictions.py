"""Label Studio tasks -> rows for the model server -> predictions, one per task and in order.

A task that cannot be read now is None (`[]` on the wire: nothing is saved and it is asked for again); one
that never can be read gets an empty result, which Label Studio saves and does not ask for again. The other
tasks are unharmed. Annotations that come with a task are never looked at.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic

from backend import unread, wire
from backend.questions import Question, Unread, ask
from backend.services import Services
from lorabel import projects, versions
from lorabel.errors import LabelConfigError, LabelStudioError, ModelServerBusyError, UnreadableError
from lorabel.label_config import LabelConfig
from lorabel.problems import BoundConfig, Prediction, bind, with_media
from lorabel.tables import Project

log = logging.getLogger(__name__)

Entry = wire.PredictionEntry | None


@dataclass(frozen=True)
class Live:
    """The project with the adapters of its live version, from one look at the database."""

    project: Project
    adapters: dict[str, str]


def predict(services: Services, body: wire.Predict) -> list[Entry]:
    """An entry or None per task of the request, in order.

    Raises:
        ModelServerBusyError: the model server's queue is full, or all our threads for predictions are taken.
        ModelServerError: the model server cannot be reached or failed.
    """
    deadline = monotonic() + services.settings.predict_timeout_s
    project_id = int(body.project.split(".", 1)[0])
    try:
        bound = bind(body.label_config)
    except LabelConfigError as error:
        log.error("project %d: no predictions, %s", project_id, error)
        return [None] * len(body.tasks)
    live = _find_live(services, project_id, body.label_config)
    if not bound.bindings:
        services.metrics.unserved_tasks.inc(len(body.tasks))
        log.info("project %d: nobody serves its control tags, %d tasks", project_id, len(body.tasks))
        entries: list[Entry] = [None] * len(body.tasks)
    else:
        with _slot(services):
            entries = _predict(services, live, bound, body.tasks, deadline)
    is_interactive = body.params.context is not None
    return [entry or _empty(live) for entry in entries] if is_interactive else entries


def _predict(
    services: Services, live: Live, bound: BoundConfig, tasks: Sequence[wire.Task], deadline: float
) -> list[Entry]:
    per_task = len(bound.bindings)
    questions = _questions(services, live, bound, tasks)
    answers = ask(services, live.project.id, questions, deadline)
    by_task = [answers[i : i + per_task] for i in range(0, len(answers), per_task)]
    problems = [_why_unread(found) for found in by_task]
    unread.write(services, live.project.id, [task.id for task in tasks], problems)
    services.metrics.predictions.inc(problems.count(None))
    return [
        None if problem is not None and not problem.is_permanent else _merge(services, live, bound.config, found)
        for found, problem in zip(by_task, problems, strict=True)
    ]


def _questions(
    services: Services, live: Live, bound: BoundConfig, tasks: Sequence[wire.Task]
) -> list[Question | Unread]:
    """For each task one per binding, in the bindings' order."""
    access = projects.label_studio_access(live.project, services.settings)
    authorization = _authorization(services, live.project.id, access)
    questions: list[Question | Unread] = []
    for task in tasks:
        for binding in bound.bindings:
            try:
                contract = with_media(
                    binding.model_input(task.data),
                    lambda media: projects.resolve_media(media, access, authorization),
                )
            except UnreadableError as error:
                questions.append(Unread(str(error), error.is_permanent))
                continue
            questions.append(Question(binding, contract, live.adapters.get(binding.from_name)))
    return questions


def _authorization(services: Services, project_id: int, access: projects.LabelStudioAccess | None) -> str | None:
    try:
        return services.authorizations.find(access)
    except LabelStudioError as error:
        services.metrics.refused_tokens.inc()
        log.warning("project %d: media is fetched without a token: %s", project_id, error)
        return None


def _why_unread(found: Sequence[Prediction | Unread]) -> Unread | None:
    """A reason that may pass comes first: with it the whole task is asked for again."""
    reasons = sorted((one for one in found if isinstance(one, Unread)), key=lambda one: one.is_permanent)
    return reasons[0] if reasons else None


def _merge(
    services: Services, live: Live, config: LabelConfig, found: Sequence[Prediction | Unread]
) -> wire.PredictionEntry:
    """The regions of all control tags that were read, each checked against the label config."""
    predictions = [one for one in found if isinstance(one, Prediction)]
    regions = []
    for region in (region for prediction in predictions for region in prediction.regions):
        errors = config.find_region_errors(region)
        if errors:
            services.metrics.dropped_regions.inc()
            log.error("project %d: a region is dropped: %s", live.project.id, "; ".join(errors))
        else:
            regions.append(region)
    score = sum(prediction.score for prediction in predictions) / len(predictions) if predictions else 0.0
    return wire.PredictionEntry(result=regions, score=score, model_version=live.project.live_version)


def _empty(live: Live) -> wire.PredictionEntry:
    """For smart tools, whose answer is shown at once and never saved."""
    return wire.PredictionEntry(result=[], score=0.0, model_version=live.project.live_version)


def _find_live(services: Services, project_id: int, label_config: str) -> Live:
    """Smart tools and test requests come without /setup, so the project may be new to us."""
    projects.remember(services.store, project_id, label_config=label_config)
    with services.store.read() as session:
        project = projects.get(session, project_id)
        return Live(project, versions.live_adapters(session, project))


@contextmanager
def _slot(services: Services) -> Iterator[None]:
    if not services.prediction_slots.acquire(blocking=False):
        raise ModelServerBusyError("every thread for predictions is taken (THREADS)", retry_after_s=1)
    try:
        yield
    finally:
        services.prediction_slots.release()
