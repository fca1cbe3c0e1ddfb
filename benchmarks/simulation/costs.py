"""What each step of a request costs, with the source of each figure."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[2] / "docs"
FORWARD = "batch of 64, base model only"
MIXED = "batch of 64, 64 projects mixed"
COLD = "adds to its first request"
SHARE = "served, 1 client: share in forward passes"
ONE_CLIENT = "served, 1 client"


@dataclass(frozen=True)
class Costs:
    """Seconds of one core, GPU or disk, unless something else is said. Sources: `SOURCES`.

    Attributes:
        batch_s: of a forward pass, whatever its size.
        row_s: of each row of a pass.
        cold_adapter_s: that an adapter which is not loaded adds to its request.
        fetch_s: until the file of a task is there; keeps no core busy.
        prepare_s: decoding and resizing, outside the process that owns the device.
        replica_row_s: the replica's process, for a row that is computed.
        replica_cached_s: the same for a row whose features are remembered.
        backend_predict_s, backend_setup_s, backend_webhook_s, backend_health_s: the backend's process, a request.
        backend_load_s: what the backend's process adds where the project is not in its memory.
        postgres_lookup_s, postgres_load_s, postgres_setup_s, postgres_event_s: PostgreSQL's processes, a request.
        postgres_apply_s: PostgreSQL's processes, for an event that the light worker applies.
        postgres_due_s: the same, to look for due training runs of a project.
        postgres_look_s: the same, to look for the project whose heads are to be fitted next.
        postgres_fit_s: the same, for a fit: reading annotations, writing features and heads.
        postgres_ahead_s: the same, for a job of the look-ahead.
        flush_s: of PostgreSQL's log; all transactions that wait share it.
        redis_enqueue_s: Redis, for each time that a request asks whether a job is needed, and adds it.
        apply_s: the light worker, an event, without the query for due runs.
        due_runs_s: the light worker, to look for due training runs of a project whose events were applied.
        fit_s: the light worker, to fit the heads of a project, with asking for the features of its new tasks.
        lookahead_s: the bulk worker, a job; it waits for Label Studio besides, for `label_studio_s`.
        label_studio_s: until Label Studio has answered what a job asks it: an access token, the project and a page
            of tasks; keeps no core of ours busy.
        ray_http_s: Ray's own HTTP proxy, a request.
        proxy_s: our proxy, a request, with Ray's client code.
        network_s: from one process to another, and back.
    """

    batch_s: float
    row_s: float
    cold_adapter_s: float
    fetch_s: float = 0.005
    prepare_s: float = 0.0016
    replica_row_s: float = 0.0012
    replica_cached_s: float = 0.00064
    backend_predict_s: float = 0.00086
    backend_setup_s: float = 0.002
    backend_webhook_s: float = 0.002
    backend_health_s: float = 0.0005
    backend_load_s: float = 0.004
    postgres_lookup_s: float = 0.0002
    postgres_load_s: float = 0.0006
    postgres_setup_s: float = 0.0003
    postgres_event_s: float = 0.0004
    postgres_apply_s: float = 0.0006
    postgres_due_s: float = 0.0005
    postgres_look_s: float = 0.0003
    postgres_fit_s: float = 0.002
    postgres_ahead_s: float = 0.001
    flush_s: float = 0.001
    redis_enqueue_s: float = 0.0001
    apply_s: float = 0.002
    due_runs_s: float = 0.01
    fit_s: float = 0.03
    lookahead_s: float = 0.008
    label_studio_s: float = 0.1
    ray_http_s: float = 0.002
    proxy_s: float = 0.003
    network_s: float = 0.0003

    def with_values(self, values: Mapping[str, float]) -> "Costs":
        """These costs with other values, in seconds.

        Raises:
            ValueError: there is no cost of a name.
        """
        names = {field.name for field in fields(self)}
        if unknown := sorted(set(values) - names):
            raise ValueError(f"there is no cost {unknown[0]!r}; there are {', '.join(sorted(names))}")
        return replace(self, **values)


SOURCES: Mapping[str, str] = {
    "batch_s": "bench-cuda.json: share in forward passes of one client, over its tasks/s, less a row",
    "row_s": f"bench-cuda.json: {MIXED}",
    "cold_adapter_s": "bench-cuda.json: a cold adapter of 1.2 MB",
    "fetch_s": "assumed: a file server in the same network",
    "prepare_s": "decision 60: decoders, an idle core",
    "replica_row_s": "decision 60: the device's process with decoders, an idle core",
    "replica_cached_s": "decision 59: the model server, 32 clients",
    "backend_predict_s": "decision 59: the backend, 32 clients",
    "label_studio_s": "bench-cpu.json: a task opened in Label Studio, less /predict",
    "network_s": "assumed: 0.15 ms each way",
}


def from_docs(name: str = "bench-cuda.json") -> Costs:
    """The costs of a device, from a benchmark in docs/; those of our processes are the defaults."""
    values = figures(name)
    row_s = 1 / values[MIXED]
    batch_s = max(0.0, values[SHARE] / values[ONE_CLIENT] - row_s) if SHARE in values else 0.0
    cold_s = next(value for key, value in values.items() if key.endswith(COLD)) / 1000
    return Costs(batch_s, row_s, cold_s)


def figures(name: str) -> dict[str, float]:
    """The figures of a benchmark in docs/, by the names of their rows."""
    report: dict[str, Any] = json.loads((DOCS / name).read_text())
    return {row["name"]: row["value"] for section in report["sections"] for row in section["rows"]}
