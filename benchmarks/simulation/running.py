"""Runs the simulation once, and reads what it found."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import simpy

from benchmarks.simulation import annotators
from benchmarks.simulation.annotators import Work
from benchmarks.simulation.costs import Costs
from benchmarks.simulation.replica import adapter_folders
from benchmarks.simulation.site import Machines, SimulatedProject, Site
from benchmarks.simulation.stations import Station
from model_server.adapter_order import order

PRELOAD_REPLICAS = 2


@dataclass(frozen=True)
class Found:
    """What a run of the simulation found, after its warm-up.

    Attributes:
        use: part -> share of the time in which it was busy; of the busiest of its machines in `busiest`.
        heads_due, lookahead_waiting: projects, and jobs, that wait at the end.
        lookahead_s: of a bulk worker, a job.
    """

    at_work: int
    tasks_per_second: float
    predict_ms: Mapping[float, float]
    webhook_p99_ms: float
    cold_share: float
    cold_p50_ms: float
    remembered_share: float
    project_loads_share: float
    use: Mapping[str, float]
    busiest: Mapping[str, float]
    rates: Mapping[str, float]
    heads_p50_ms: float
    heads_due: int
    lookahead_waiting: int
    lookahead_s: float

    @property
    def breaks_first(self) -> str:
        """The part with the largest use."""
        return max(self.busiest, key=self.busiest.__getitem__)


def run(
    work: Work,
    machines: Machines,
    costs: Costs,
    *,
    at_work: int,
    seconds: float,
    warm_up_s: float,
    seed: int = 17,
) -> Found:
    """Simulate so many annotators at work for some seconds after a warm-up."""
    env = simpy.Environment()
    with adapter_folders() as folders:
        site = Site(env, machines, costs, folders, seed)
        projects = annotators.begin(env, site, work, at_work, seed)
        preload(site, projects)
        env.run(until=warm_up_s)
        before = _Reading.of(site)
        env.run(until=warm_up_s + seconds)
    return _found(site, before, _Reading.of(site), at_work, seconds)


def preload(site: Site, projects: Sequence[SimulatedProject]) -> None:
    """Have each adapter loaded at its home and at the second replica, the most popular ones last."""
    replicas = {replica.name: replica for replica in site.replicas}
    for project in reversed(projects):
        if project.adapter is not None:
            for name in order(project.adapter, list(replicas))[:PRELOAD_REPLICAS]:
                replicas[name].bank.load(project.adapter)


@dataclass(frozen=True)
class _Reading:
    """Counters of a site at one time. Lists have an entry for each machine or process."""

    busy_s: Mapping[str, Sequence[float]]
    visits: Mapping[str, int]
    counts: Mapping[str, int]

    @classmethod
    def of(cls, site: Site) -> "_Reading":
        stations = _stations(site)
        busy_s = {
            name: [station.busy_s / station.servers for station in parts] for name, parts in stations.items()
        }
        busy_s["GPU"] = [replica.device_busy_s for replica in site.replicas]
        busy_s["bulk worker"] = [site.bulk.busy_s / max(1, site.machines.bulk_workers)]
        counts = {
            "predictions": len(site.predictions.values),
            "webhooks": len(site.webhooks.values),
            "cold": len(site.cold_waits.values),
            "remembered": site.remembered,
            "project loads": site.project_loads,
            "lookups": site.lookups,
            "fits": site.light.fits,
            "heads": len(site.light.fits_s.values),
            "flushes": site.flushes.flushes,
            "look-ahead jobs": site.bulk.jobs,
            "Label Studio asked": site.bulk.label_studio_asked,
            "rows": sum(replica.rows for replica in site.replicas),
            "batches": sum(replica.batches for replica in site.replicas),
        }
        visits = {name: sum(station.visits for station in parts) for name, parts in stations.items()}
        return cls(busy_s, visits, counts)


def _stations(site: Site) -> dict[str, list[Station]]:
    return {
        "Ray's HTTP proxy": site.ray_http,
        "our proxy": [router.station for router in site.routers],
        "replica's process": [replica.process for replica in site.replicas],
        "replica's decoders": [replica.cores for replica in site.replicas],
        "backend": [backend.station for backend in site.backends],
        "PostgreSQL": [site.postgres],
        "Redis": [site.redis],
        "light worker": [worker.station for worker in site.light.workers],
    }


def _found(site: Site, before: _Reading, after: _Reading, at_work: int, seconds: float) -> Found:
    shares = {
        name: [(end - start) / seconds for start, end in zip(before.busy_s[name], ends, strict=True)]
        for name, ends in after.busy_s.items()
    }
    counts = {name: count - before.counts[name] for name, count in after.counts.items()}
    rates = {name: (visits - before.visits[name]) / seconds for name, visits in after.visits.items()}
    rates |= {name: count / seconds for name, count in counts.items()}
    site.predictions.values = site.predictions.values[before.counts["predictions"] :]
    site.webhooks.values = site.webhooks.values[before.counts["webhooks"] :]
    site.cold_waits.values = site.cold_waits.values[before.counts["cold"] :]
    site.light.fits_s.values = site.light.fits_s.values[before.counts["heads"] :]
    predictions = max(1, counts["predictions"])
    return Found(
        at_work=at_work,
        tasks_per_second=counts["predictions"] / seconds,
        predict_ms={share: site.predictions.percentile_ms(share) for share in (0.5, 0.95, 0.99)},
        webhook_p99_ms=site.webhooks.percentile_ms(0.99),
        cold_share=counts["cold"] / predictions,
        cold_p50_ms=site.cold_waits.percentile_ms(0.5),
        remembered_share=counts["remembered"] / predictions,
        project_loads_share=counts["project loads"] / max(1, counts["lookups"]),
        use={name: sum(parts) / len(parts) for name, parts in shares.items()},
        busiest={name: max(parts) for name, parts in shares.items()},
        rates=rates,
        heads_p50_ms=site.light.fits_s.percentile_ms(0.5),
        heads_due=site.light.due,
        lookahead_waiting=site.bulk.waiting,
        lookahead_s=site.bulk.busy_s / max(1, site.bulk.jobs),
    )
