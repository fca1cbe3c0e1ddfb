"""The objects that the routes use, created once per app and kept in `app.extensions`."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from threading import BoundedSemaphore
from typing import cast

from flask import current_app

from backend import forgetting
from backend.event_writer import EventWriter
from backend.live_projects import LiveProjects
from backend.metrics import Metrics
from backend.pages.connections import Connections
from backend.pages.forget_plans import ForgetPlans
from backend.pages.kept_if_slow import KeptIfSlow
from backend.pages.project_counts import MOST_FIELDS, MOST_PROJECTS, Counts, count, find_groups
from backend.pages.run_rows import ActiveRuns
from backend.pages.task_previews import TaskPreviews
from backend.pages.thumbnails import Thumbnails
from backend.pages.vitals import Vitals
from backend.restarts import Restarts
from backend.traffic import Traffic
from lorabel.database.jobs import Jobs
from lorabel.database.store import Store
from lorabel.errors import ModelServerBusyError
from lorabel.evaluation.group_figures import Groups
from lorabel.explanations.editor import EditorExplanations
from lorabel.inference.model_client import ModelClient
from lorabel.label_studio.media_authorizations import Authorizations
from lorabel.redaction import Redactor
from lorabel.redactors import make_redactor
from lorabel.search.searcher import Searcher
from lorabel.settings import Settings

EXTENSION = "lorabel"
# Each explanation takes the device for seconds, and a thread as long.
EXPLANATIONS_AT_ONCE, EXPLANATION_RETRY_S = 2, 5
RESERVED_THREADS = 4


@dataclass(frozen=True)
class Services:
    """The objects that the routes use. Thread-safe.

    Attributes:
        explanation_slots: limits the explanations that are computed at once; each takes hundreds of passes.
        prediction_slots: limits the threads that predict or search, so that RESERVED_THREADS stay free for /health
            and /setup.
    """

    settings: Settings
    store: Store
    event_writer: EventWriter
    jobs: Jobs
    model_client: ModelClient
    authorizations: Authorizations
    metrics: Metrics
    searcher: Searcher
    editor_explanations: EditorExplanations
    prediction_slots: BoundedSemaphore
    explanation_slots: BoundedSemaphore
    live_projects: LiveProjects
    active_runs: ActiveRuns
    vitals: Vitals
    redactor: Redactor
    project_counts: KeptIfSlow[int, Counts]
    groups: KeptIfSlow[tuple[int, str], Groups]
    previews: TaskPreviews
    thumbnails: Thumbnails
    traffic: Traffic
    connections: Connections
    restarts: Restarts
    forget_plans: ForgetPlans

    @classmethod
    def open(cls, settings: Settings) -> "Services":
        """Create the services. Opens the database and migrates its schema to the newest revision.

        Raises:
            SettingsError: REDACT names what cannot be masked here.
        """
        redactor = make_redactor(settings)
        redactor.load()
        store = Store.open(settings)
        store.migrate()
        model_client, authorizations = ModelClient(settings), Authorizations()
        jobs = Jobs(settings)
        vitals = Vitals(settings, store, jobs, model_client)
        searcher = Searcher(settings, store, model_client, authorizations)
        return cls(
            settings,
            store,
            EventWriter(store),
            jobs,
            model_client,
            authorizations,
            Metrics(settings),
            searcher,
            EditorExplanations(settings, store, searcher, are_waited_for=True),
            BoundedSemaphore(settings.threads - RESERVED_THREADS),
            BoundedSemaphore(EXPLANATIONS_AT_ONCE),
            LiveProjects(store, settings),
            ActiveRuns(store),
            vitals,
            redactor,
            KeptIfSlow(partial(count, store), MOST_PROJECTS, "counts of project"),
            KeptIfSlow(partial(find_groups, store), MOST_FIELDS, "groups"),
            TaskPreviews(settings, store, redactor),
            Thumbnails(settings, authorizations),
            Traffic(),
            Connections(settings, store, vitals.renew),
            Restarts(store),
            ForgetPlans(
                lambda project_id, subject, is_retraining: forgetting.plan(
                    settings, store, project_id, subject, is_retraining=is_retraining
                )
            ),
        )

    def close(self) -> None:
        """Close all connections."""
        self.connections.close()
        self.forget_plans.close()
        self.vitals.close()
        self.project_counts.close()
        self.groups.close()
        self.thumbnails.close()
        self.authorizations.close()
        self.model_client.close()
        self.jobs.redis.close()
        self.store.close()


@contextmanager
def prediction_slot(services: Services) -> Iterator[None]:
    """Hold one of the threads for predictions.

    Raises:
        ModelServerBusyError: all of them are taken.
    """
    if not services.prediction_slots.acquire(blocking=False):
        raise ModelServerBusyError("every thread for predictions is taken (THREADS)", retry_after_s=1)
    try:
        yield
    finally:
        services.prediction_slots.release()


@contextmanager
def explanation_slot(services: Services) -> Iterator[None]:
    """Hold one of the EXPLANATIONS_AT_ONCE, and one of the threads for predictions.

    Raises:
        ModelServerBusyError: all of them are taken.
    """
    if not services.explanation_slots.acquire(blocking=False):
        raise ModelServerBusyError(
            "other explanations are being computed; try again in a moment", retry_after_s=EXPLANATION_RETRY_S
        )
    try:
        with prediction_slot(services):
            yield
    finally:
        services.explanation_slots.release()


def services() -> Services:
    """The services of the app that answers the current request."""
    return cast(Services, current_app.extensions[EXTENSION])
