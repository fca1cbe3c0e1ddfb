"""Writes what the simulation found as Markdown tables."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import fields

from benchmarks.simulation.arithmetic import Needed
from benchmarks.simulation.costs import SOURCES, Costs
from benchmarks.simulation.one_machine import Compared
from benchmarks.simulation.running import Found

PARTS = {
    "Ray's HTTP proxy": "Ray's HTTP proxy",
    "our proxy": "our proxy",
    "GPU": "GPU",
    "replica's process": "replica's process",
    "backend": "backend",
    "PostgreSQL": "PostgreSQL core",
    "Redis": "Redis",
    "light worker": "light worker",
    "bulk worker": "bulk worker",
}


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def costs_table(costs: Costs, given: Collection[str]) -> str:
    """The costs with their sources; `given` names those that this run measured, or was given."""
    rows = []
    for field in fields(costs):
        source = (
            "measured in this run, or given to it" if field.name in given else SOURCES.get(field.name, "estimate")
        )
        rows.append([f"`{field.name}`", f"{1000 * getattr(costs, field.name):.3f}", source])
    return table(["cost", "ms", "source"], rows)


def measured_table(costs: Mapping[str, float], others: Mapping[str, float]) -> str:
    """Costs in ms, and other figures as they are."""
    rows = [[f"`{name}`", f"{1000 * seconds:.3f} ms"] for name, seconds in costs.items()]
    return table(["what", "measured"], [*rows, *([name, f"{value:,.4g}"] for name, value in others.items())])


def sweep_table(results: Sequence[Found]) -> str:
    heads = [
        "at work",
        "tasks/s",
        "/predict p50",
        "p95",
        "p99",
        "/webhook p99",
        "cold",
        "remembered",
        "busiest part",
    ]
    rows = [
        [
            f"{found.at_work:,}",
            f"{found.tasks_per_second:,.0f}",
            *(f"{found.predict_ms[share]:,.0f} ms" for share in (0.5, 0.95, 0.99)),
            f"{found.webhook_p99_ms:,.0f} ms",
            f"{found.cold_share:.2%}" + (f", {found.cold_p50_ms:.0f} ms" if found.cold_share else ""),
            f"{found.remembered_share:.0%}",
            f"{found.breaks_first}, {found.busiest[found.breaks_first]:.0%}",
        ]
        for found in results
    ]
    return table(heads, rows)


def use_table(results: Sequence[Found]) -> str:
    heads = ["at work", *PARTS, "heads due", "new head p50", "look-ahead jobs waiting"]
    rows = [
        [
            f"{found.at_work:,}",
            *(f"{found.use[part]:.0%}" for part in PARTS),
            f"{found.heads_due:,}",
            f"{found.heads_p50_ms:,.0f} ms",
            f"{found.lookahead_waiting:,}",
        ]
        for found in results
    ]
    return table(heads, rows)


def needed_table(parts: Sequence[Needed]) -> str:
    rows = [
        [need.part, f"{need.rate:,.0f}", f"{1000 * need.cost_s:.2f}", f"{need.busy:.1f}", str(need.count)]
        for need in parts
    ]
    return table(["part", "visits/s", "ms each", "busy", "needed"], rows)


def compared_table(rows: Iterable[Compared]) -> str:
    heads = ["", "simulated, tasks/s", "measured", "simulated p50", "measured"]
    return table(
        heads,
        [
            [
                row.name,
                f"{row.simulated:.1f}",
                f"{row.measured:.1f}",
                f"{row.simulated_p50_ms:,.0f} ms",
                f"{row.measured_p50_ms:,.0f} ms",
            ]
            for row in rows
        ],
    )
