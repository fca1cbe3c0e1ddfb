"""The backend's metrics for Prometheus. Each app has its own registry, so that tests can create many apps.

With several gunicorn processes (WORKERS), each process writes its counts to files in a shared folder, and
`/metrics` sums them up (https://prometheus.github.io/client_python/multiprocess/). `gunicorn.conf.py` sets the
folder.
"""

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from backend.metrics_folder import shared_folder
from lorabel.settings import Settings

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 100)


class Metrics:
    """Counters and histograms, updated by the routes. Thread-safe."""

    def __init__(self, settings: Settings) -> None:
        registry = CollectorRegistry()
        self._registry = registry
        self._folder = shared_folder(settings)
        self.requests = Counter("lorabel_requests", "HTTP requests.", ["endpoint", "status"], registry=registry)
        self.request_seconds = Histogram(
            "lorabel_request_seconds", "Time to answer.", ["endpoint"], buckets=SECONDS, registry=registry
        )
        self.predictions = Counter("lorabel_predictions", "Tasks predicted.", registry=registry)
        self.unread_tasks = Counter(
            "lorabel_unread_tasks", "Tasks that could not be predicted.", ["is_permanent"], registry=registry
        )
        self.unserved_tasks = Counter(
            "lorabel_unserved_tasks",
            "Tasks whose label config has no control tag that is predicted.",
            registry=registry,
        )
        self.smart_tool_calls = Counter(
            "lorabel_smart_tool_calls",
            "Clicks, boxes and other prompts of smart tools: answered, empty, unreadable or failed.",
            ["outcome"],
            registry=registry,
        )
        self.editor_explanations = Counter(
            "lorabel_editor_explanations",
            "Predictions that are explained in the editor (EXPLAIN_IN): written, empty, failed or late.",
            ["outcome"],
            registry=registry,
        )
        self.dropped_regions = Counter(
            "lorabel_dropped_regions",
            "Predicted regions that were dropped, since they do not fit the label config.",
            registry=registry,
        )
        self.rule_removals = Counter(
            "lorabel_rule_removals",
            "Labels, regions and texts that rules have removed from predictions of /predict.",
            ["project", "rule"],
            registry=registry,
        )
        self.events = Counter("lorabel_events", "Webhook events stored.", ["action", "state"], registry=registry)
        self.refused_events = Counter(
            "lorabel_refused_events",
            "Webhook events refused, since they have not the secret of their project's webhook.",
            ["project", "reason"],
            registry=registry,
        )
        self.redacted = Counter(
            "lorabel_redacted",
            "Personal data masked in events before they were stored.",
            ["kind"],
            registry=registry,
        )
        self.unmasked_events = Counter(
            "lorabel_unmasked_events",
            "Webhook events refused, since they could not be masked as REDACT says.",
            ["action"],
            registry=registry,
        )
        self.refused_tokens = Counter(
            "lorabel_refused_tokens",
            "Requests whose media were fetched without a token, since Label Studio refused it.",
            registry=registry,
        )

    def render(self) -> bytes:
        """All metrics in Prometheus' text format 0.0.4, of all processes if there are several."""
        if self._folder is None:
            return generate_latest(self._registry)
        every_process = CollectorRegistry()
        MultiProcessCollector(every_process, path=str(self._folder))  # type: ignore[no-untyped-call]
        return generate_latest(every_process)
