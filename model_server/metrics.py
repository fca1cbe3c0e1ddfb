"""What Prometheus reads from the model server at /metrics."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


class Metrics:
    """The engine's metrics."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.rows = Counter(
            "lorabel_rows", "Rows by priority and outcome", ["priority", "outcome"], registry=registry
        )
        self.waiting = Gauge("lorabel_rows_waiting", "Rows not answered yet", ["priority"], registry=registry)
        sizes = (1, 2, 4, 8, 16, 32, 64, 128, 256)
        self.batch = Histogram("lorabel_batch_rows", "Rows per forward pass", buckets=sizes, registry=registry)
        self.forward = Histogram("lorabel_forward_seconds", "Time of a forward pass", registry=registry)
        self.device = Counter(
            "lorabel_device_seconds",
            "Time that the device's thread had batches, forward passes included",
            registry=registry,
        )
        self.device_cpu = Counter(
            "lorabel_device_cpu_seconds",
            "CPU time of the device's thread in its batches; the rest it waits: for the GPU, the GIL, a core, or "
            "threads that compute rows for it",
            registry=registry,
        )
        self.missing_heads = Counter(
            "lorabel_missing_heads", "Rows answered without their fitted head, as it was gone", registry=registry
        )
        self.left_out_parts = Counter(
            "lorabel_left_out_parts",
            "Sounds or words of videos that were left out, as the model cannot be loaded",
            ["family"],
            registry=registry,
        )
        self.not_followed = Counter(
            "lorabel_not_followed",
            "Videos of which the tracker followed no drawn box, as it failed or was too slow",
            registry=registry,
        )
        self.decoder_requests = Counter(
            "lorabel_decoder_requests",
            "Files fetched, and pictures read, by each decoder",
            ["decoder", "kind"],
            registry=registry,
        )
        self.decoder_restarts = Counter(
            "lorabel_decoder_restarts", "Decoders that ended and were started again", registry=registry
        )
        self.max_batch = Gauge("lorabel_max_batch", "Most rows per forward pass", registry=registry)

    @contextmanager
    def counting_device_time(self) -> Iterator[None]:
        """A context in which the device's thread has a batch."""
        began_at, cpu_began_at = time.monotonic(), time.thread_time()
        try:
            yield
        finally:
            self.device.inc(time.monotonic() - began_at)
            self.device_cpu.inc(time.thread_time() - cpu_began_at)


class FeatureCacheCollector(Collector):
    """Exports the sizes, hits and misses of the feature caches. One collector serves all families, since a metric
    may be in the text only once.

    Args:
        figures: returns `FeatureCache.figures` by family; is called at every scrape.
    """

    def __init__(self, figures: Callable[[], Mapping[str, Mapping[str, Mapping[str, int]]]]) -> None:
        self._figures = figures

    def collect(self) -> Iterator[Metric]:
        size = GaugeMetricFamily("lorabel_memo_bytes", "Bytes in the feature cache", labels=["family", "kind"])
        hits = CounterMetricFamily(
            "lorabel_memo_hits", "Lookups that the feature cache answered", labels=["family", "kind"]
        )
        misses = CounterMetricFamily(
            "lorabel_memo_misses", "Lookups that the feature cache could not answer", labels=["family", "kind"]
        )
        for family, kinds in self._figures().items():
            for kind, figures in kinds.items():
                size.add_metric([family, kind], figures["bytes"])
                hits.add_metric([family, kind], figures["hits"])
                misses.add_metric([family, kind], figures["misses"])
        yield from (size, hits, misses)
