"""Profiles backend and model server under load: CPU time per task, by function.

    python -m benchmarks.profile_served --clients 32 --seconds 20
    python -m benchmarks.profile_served --clients 16 --detections
    python -m benchmarks.profile_served --clients 4 --tasks 100 --weightless

Both servers run under `benchmarks.profiled` with the photographs and the model of the throughput figures, of
the overhead, or of the detections. For each server this prints the functions that cost most, with and without
what they call, in milliseconds of CPU per task. Profiling slows Python down, and torch's own threads are not
profiled: compare functions, not seconds.
"""

import argparse
import os
import pstats
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import servers
from benchmarks.load import Load, offer
from benchmarks.models import owlv2, vit_b_32, weightless
from benchmarks.plan import Plan
from benchmarks.question import BOXES_CONFIG, LABEL_CONFIG
from lorabel.commands.supervisor import PATIENCE, gunicorn_config
from tests.servers import free_port

SHOWN = 40
THREADS = 144
ROOT = f"{Path(__file__).parents[1]}{os.sep}"
PACKAGES = f"{os.sep}site-packages{os.sep}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--tasks", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--detections", action="store_true", help="boxes of an OWLv2 in place of choices")
    parser.add_argument("--weightless", action="store_true", help="a model that computes next to nothing")
    parser.add_argument("--out", type=Path, default=Path("build/bench"))
    options = parser.parse_args()
    plan = Plan(options.out.absolute(), options.seconds, False, "auto", "auto")
    with TemporaryDirectory(prefix="lorabel-bench-") as folder:
        encoder = weightless if options.weightless else vit_b_32
        models, config = {"MODEL_DUAL_ENCODER": encoder(plan.folder)}, LABEL_CONFIG
        if options.detections:
            models, config = {"MODEL_DETECTOR": owlv2(plan.folder), "FAMILIES": "detector"}, BOXES_CONFIG
        tasks = _run(plan, Load(options.clients, options.tasks), models, config, Path(folder))
        for name in ("model_server", "backend"):
            _show(name, sorted(Path(folder).glob(f"{name}.prof.*")), tasks)


def _run(plan: Plan, load: Load, models: Mapping[str, str], config: str, folder: Path) -> float:
    """Returns the number of tasks that were served. Afterwards the profiles are in the folder."""
    port, model_port = free_port(), free_port()
    with servers.photo_server() as photos:
        variables = {
            **PATIENCE,
            **plan.variables,
            **models,
            "PORT": str(port),
            "THREADS": str(THREADS),
            "DATA_DIR": str(folder / "data"),
            "MODEL_SERVER_URL": f"http://127.0.0.1:{model_port}",
            "MEDIA_ALLOWED_HOSTS": photos.removeprefix("http://"),
            "LOG_LEVEL": "WARNING",
        }
        (folder / "data").mkdir()
        model_server = _profiled(folder / "model_server.prof", "model_server")
        backend = _profiled(folder / "backend.prof", "gunicorn", "--config", str(gunicorn_config()))
        with (
            servers.process(model_server, f"http://127.0.0.1:{model_port}/livez", variables),
            servers.process(backend, f"http://127.0.0.1:{port}/livez", variables) as probe,
        ):
            url = probe.removesuffix("/livez")
            measured = offer(url, photos, load, plan, 0, label_config=config)
    rate = sum(measured.tasks_per_second) / len(measured.tasks_per_second)
    print(f"{load.name}, profiled: {rate:.1f} tasks/s")
    return rate * (plan.seconds + plan.warm_up_s)


def _profiled(file: Path, *module_and_arguments: str) -> list[str]:
    return [sys.executable, "-m", "benchmarks.profiled", str(file), *module_and_arguments]


def _show(name: str, files: Sequence[Path], tasks: float) -> None:
    """Print the functions that cost most, our own and those of libraries."""
    stats = pstats.Stats(*map(str, files))
    by_function = stats.stats  # type: ignore[attr-defined]
    total = sum(own_time for _, _, own_time, _, _ in by_function.values())
    print(f"\n{name}: {total / tasks * 1000:.2f} ms of CPU a task in Python's threads")
    for title, column in (("with what they call", 3), ("without", 2)):
        print(f"\n{'ms a task':>10} {'calls a task':>12}  {title}")
        for function, figures in sorted(by_function.items(), key=lambda entry: -entry[1][column])[:SHOWN]:
            print(f"{figures[column] / tasks * 1000:>10.3f} {figures[1] / tasks:>12.2f}  {_function(function)}")


def _function(function: tuple[str, int, str]) -> str:
    file, line, name = function
    path = file.rpartition(PACKAGES)[2].removeprefix(ROOT)
    return name if file == "~" else f"{path}:{line} {name}"


if __name__ == "__main__":
    main()
