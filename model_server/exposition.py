"""Several processes' metrics as one text for Prometheus (https://prometheus.io/docs/instrumenting/exposition_formats)."""

from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector


class _Texts(Collector):
    def __init__(self, label: str, texts: Mapping[str, str]) -> None:
        self._label, self._texts = label, texts

    def collect(self) -> Iterator[Metric]:
        families: dict[str, Metric] = {}
        for value, text in self._texts.items():
            for family in text_string_to_metric_families(text):
                whole = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                for sample in family.samples:
                    whole.add_sample(sample.name, {**sample.labels, self._label: value}, sample.value)
        yield from families.values()


def merged(label: str, texts: Mapping[str, str]) -> bytes:
    """Every sample of every text, told apart by a label.

    Args:
        texts: by the value that the label gets.
    """
    registry = CollectorRegistry()
    registry.register(_Texts(label, texts))
    return generate_latest(registry)
