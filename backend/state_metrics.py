"""What Prometheus reads of the database and of Redis: queues, workers, runs and versions.

Every process answers the same, so it is not summed up over processes as `backend/metrics.py` is.
"""

import logging
from collections.abc import Iterator, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import InstrumentedAttribute

from backend.pages.vitals import Vitals
from lorabel.database.store import Store
from lorabel.database.tables import BulkRun, Event, EventState, ModelVersion, Project, TrainingRun

log = logging.getLogger(__name__)

# A scrape does not wait longer for Redis; the next one then has the queues.
WAIT_S = 0.5


class StateCollector(Collector):
    """Counts rows at each scrape. Redis was asked some seconds ago at most; metrics of it are missing while it
    cannot be reached. So are those of the database while it cannot be read; the log says why.
    """

    def __init__(self, store: Store, vitals: Vitals) -> None:
        self._store, self._vitals = store, vitals

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics as they are now."""
        jobs = GaugeMetricFamily("lorabel_queue_jobs", "Jobs that wait on a queue", labels=["queue"])
        workers = GaugeMetricFamily("lorabel_workers", "Workers by their queues", labels=["queues"])
        parts = self._vitals.parts.get(WAIT_S)
        if parts is not None and parts.value.redis_fault is None:
            for queue in parts.value.queues:
                jobs.add_metric([queue.name], queue.waiting)
            queues_of_workers = [",".join(worker.queues) for worker in parts.value.workers]
            for queues in sorted(set(queues_of_workers)):
                workers.add_metric([queues], queues_of_workers.count(queues))
            yield from (jobs, workers)
        try:
            yield from self._of_database()
        except SQLAlchemyError:
            log.exception("metrics of the database are left out: it cannot be read")

    def _of_database(self) -> Sequence[Metric]:
        projects = GaugeMetricFamily("lorabel_projects", "Projects with a label config")
        events = GaugeMetricFamily("lorabel_pending_events", "Webhook events that are not applied yet")
        training = GaugeMetricFamily("lorabel_training_runs", "Training runs by state", labels=["state"])
        bulk = GaugeMetricFamily("lorabel_bulk_runs", "Bulk runs by kind and state", labels=["kind", "state"])
        versions = GaugeMetricFamily("lorabel_versions", "Versions by state", labels=["state"])
        with self._store.read() as session:
            projects.add_metric(
                [], session.scalar(select(func.count(Project.id)).where(Project.label_config.is_not(None))) or 0
            )
            is_pending = Event.state == EventState.PENDING
            events.add_metric([], session.scalar(select(func.count(Event.id)).where(is_pending)) or 0)
            counted: tuple[tuple[GaugeMetricFamily, tuple[InstrumentedAttribute[str], ...]], ...] = (
                (training, (TrainingRun.state,)),
                (bulk, (BulkRun.kind, BulkRun.state)),
                (versions, (ModelVersion.state,)),
            )
            for family, columns in counted:
                for *values, count in session.execute(select(*columns, func.count()).group_by(*columns)):
                    family.add_metric([str(value) for value in values], count)
        return projects, events, training, bulk, versions


def render(store: Store, vitals: Vitals) -> bytes:
    """All of these metrics in Prometheus' text format 0.0.4."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(StateCollector(store, vitals))
    return generate_latest(registry)
