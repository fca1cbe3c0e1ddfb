"""100 replicas, 10,000 projects and 50,000 annotators, in simulated time.

    python -m benchmarks.simulation --measure
    python -m benchmarks.simulation --at-work 2000 8000 --task-s 10 --machines light_workers=64 bulk_workers=400
    python -m benchmarks.simulation --costs fit_s=0.12 postgres_event_s=0.0004

It prints what each step of a request costs and where the figure is from, the check against one real machine, what
annotators wait for as more of them are at work, how much each part has to do, and how many of each are needed.
"""

import argparse
from collections.abc import Mapping, Sequence

from benchmarks.simulation import report
from benchmarks.simulation.annotators import Work, working_shares
from benchmarks.simulation.arithmetic import needed
from benchmarks.simulation.costs import Costs, figures, from_docs
from benchmarks.simulation.one_machine import compare
from benchmarks.simulation.running import Found, run
from benchmarks.simulation.site import Machines

# Where annotators live, in hours from UTC: America, Europe and Africa, Asia.
OFFSETS_H = (-6.0, 1.0, 6.0)
BEGIN_H, END_H = 9.0, 17.0
STEPS = (0.02, 0.1, 0.3, 1.0)


def main() -> None:
    options = _options()
    work = Work(options.annotators, options.projects, options.task_s)
    machines = Machines(**{name: int(value) for name, value in options.machines.items()})
    given = {**(_measured(work.projects) if options.measure else {}), **options.costs}
    costs = from_docs().with_values(given)
    shares = working_shares(BEGIN_H, END_H, OFFSETS_H)
    peak = round(max(shares) * work.annotators)
    print(f"## Costs\n\n{report.costs_table(costs, list(given))}\n")
    print(
        f"## One machine, simulated and measured\n\n{report.compared_table(compare(figures('bench-cpu.json')))}\n"
    )
    print(f"Of {work.annotators:,} annotators at most {peak:,} are at work at a time.\n", flush=True)
    results = []
    for at_work in options.at_work or [round(step * peak) for step in STEPS]:
        results.append(
            run(work, machines, costs, at_work=at_work, seconds=options.seconds, warm_up_s=options.warm_up)
        )
        print(f"{at_work:,} at work: {results[-1].tasks_per_second:.0f} tasks/s", flush=True)
    print(f"\n## What annotators wait for\n\n{report.sweep_table(results)}\n")
    print(f"## How busy each part is\n\n{report.use_table(results)}\n")
    _print_needed(results, peak, work, costs)


def _measured(projects: int) -> dict[str, float]:
    """Costs as measured here; what is measured and no cost is printed."""
    # Imported here: backend and workers take some seconds to import.
    from benchmarks.simulation.measured import measure

    costs, others = measure(projects)
    print(f"## Measured on this machine\n\n{report.measured_table(costs, others)}\n", flush=True)
    return costs


def _print_needed(results: Sequence[Found], peak: int, work: Work, costs: Costs) -> None:
    """The arithmetic takes what the simulation found per task in its smallest load, where nothing waits."""
    found = results[0]
    per_task = 1 / max(1e-9, found.tasks_per_second)
    shares = {
        "jobs": found.rates["look-ahead jobs"] * per_task,
        "fits": found.rates["fits"] * per_task,
        "rows": found.rates["rows"] * per_task,
        "requests": found.rates["our proxy"] * per_task,
        "redis": found.rates["Redis"] * per_task,
        "loads": found.project_loads_share,
        "job_s": found.lookahead_s,
    }
    rate = peak / work.task_s
    print(f"## Needed for {rate:,.0f} tasks/s, at 70% use\n\n{report.needed_table(needed(rate, costs, shares))}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--annotators", type=int, default=50_000)
    parser.add_argument("--projects", type=int, default=10_000)
    parser.add_argument("--task-s", type=float, default=30.0, help="mean seconds that a task is looked at")
    parser.add_argument("--at-work", type=int, nargs="+", help="annotators at work at a time, one for each run")
    parser.add_argument("--seconds", type=float, default=10.0, help="simulated, after the warm-up")
    parser.add_argument("--warm-up", type=float, default=40.0)
    parser.add_argument(
        "--measure", action="store_true", help="PostgreSQL, Redis and the workers, on this machine"
    )
    parser.add_argument("--machines", nargs="+", default={}, action=_Values, help="e.g. light_workers=64")
    parser.add_argument("--costs", nargs="+", default={}, action=_Values, help="in seconds, e.g. fit_s=0.12")
    return parser.parse_args()


class _Values(argparse.Action):
    """Reads NAME=NUMBER as a dict."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: object, _: object = None
    ) -> None:
        try:
            pairs = dict(text.split("=", 1) for text in values)  # type: ignore[attr-defined]
            read: Mapping[str, float] = {name: float(number) for name, number in pairs.items()}
        except ValueError:
            parser.error(f"{self.option_strings[0]} expects NAME=NUMBER, got {values}")
        setattr(namespace, self.dest, read)


if __name__ == "__main__":
    main()
