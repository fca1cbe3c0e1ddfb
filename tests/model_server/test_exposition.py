"""Metrics of several processes merged into one text."""

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from model_server.exposition import merged


def text(rows: int, seconds: float) -> str:
    registry = CollectorRegistry()
    Counter("rows", "Rows by outcome", ["outcome"], registry=registry).labels("ok").inc(rows)
    Histogram("forward_seconds", "Time", buckets=(1, 2), registry=registry).observe(seconds)
    return generate_latest(registry).decode()


def test_each_sample_appears_once_per_process_and_each_metric_once() -> None:
    merged_text = merged("replica", {"a": text(3, 0.5), "b": text(4, 1.5)}).decode()
    assert merged_text.count("# TYPE rows_total counter") == 1
    values = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for metric in text_string_to_metric_families(merged_text)
        for sample in metric.samples
    }
    assert values["rows_total", (("outcome", "ok"), ("replica", "a"))] == 3
    assert values["rows_total", (("outcome", "ok"), ("replica", "b"))] == 4
    assert values["forward_seconds_bucket", (("le", "1.0"), ("replica", "a"))] == 1
    assert values["forward_seconds_bucket", (("le", "1.0"), ("replica", "b"))] == 0
    assert values["forward_seconds_sum", (("replica", "b"),)] == 1.5
