"""Merges the metrics of several processes into one text for Prometheus.

The format: https://prometheus.io/docs/instrumenting/exposition_formats.
"""

from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector


class _Texts(Collector):
    def __init__(self, label: str, texts: Mapping[str, str]) -> None:
        self._label, self._texts = label, texts

    def collect(self) -> Iterator[Metric]:
        metrics: dict[str, Metric] = {}
        for value, text in self._texts.items():
            for part in text_string_to_metric_families(text):
                merged_metric = metrics.setdefault(part.name, Metric(part.name, part.documentation, part.type))
                for sample in part.samples:
                    merged_metric.add_sample(sample.name, {**sample.labels, self._label: value}, sample.value)
        yield from metrics.values()


def merged(label: str, texts: Mapping[str, str]) -> bytes:
    """Return every sample of every text, with one more label that names the text.

    Args:
        label: name of the label, e.g. `replica`.
        texts: what each process exports at /metrics, by the value that the label gets.
    """
    registry = CollectorRegistry()
    registry.register(_Texts(label, texts))
    return generate_latest(registry)
