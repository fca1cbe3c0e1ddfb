"""What a request costs between Label Studio's connection and the engine: CPU time of backend and model server.

    python -m benchmarks.wire --rounds 5 --seconds 2

Backend and model server run alone with the model of the overhead figures, and are asked about the same photographs
again and again. The model server remembers them, so nothing is fetched, decoded or computed: what is left is HTTP,
JSON, the database, the questions, the answers and their regions. The loads take turns, since the machine may have
other work. For each this prints CPU microseconds for a task: the least of the rounds, which other work has
disturbed least, and their median.
"""

import argparse
import os
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import servers
from benchmarks.costs import cpu_seconds
from benchmarks.load import Load, offer
from benchmarks.models import weightless
from benchmarks.plan import Plan
from lorabel.commands.supervisor import PATIENCE, gunicorn_config
from tests.e2e.processes import descendants
from tests.servers import free_port

LOADS = (Load(1), Load(32), Load(4, 100))
REMEMBERED = 100
# Part -> what its command line has.
PARTS = {"backend": "gunicorn.conf.py", "model server": "model_server"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--out", type=Path, default=Path("build/bench"))
    options = parser.parse_args()
    # The short warm-up, of a second, counts: the CPU time is that of all requests.
    plan = Plan(options.out.absolute(), options.seconds, True, "cpu", "auto")
    spent_us: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    latency_ms: defaultdict[str, list[float]] = defaultdict(list)
    with servers.photo_server() as photos, _served(plan, photos) as url:
        offer(url, photos, Load(4), plan, 0, REMEMBERED)
        for _ in range(options.rounds):
            for load in LOADS:
                before = _cpu_seconds()
                measured = offer(url, photos, load, plan, 0, REMEMBERED)
                for part, seconds in _cpu_seconds().items():
                    spent_us[load.name, part].append(1e6 * (seconds - before[part]) / measured.tasks)
                latency_ms[load.name] += measured.median_ms
    print(f"{'CPU us a task':<32} {'part':<13} {'least':>7} {'median':>7}")
    for (load_name, part), times in spent_us.items():
        print(f"{load_name:<32} {part:<13} {min(times):>7.0f} {statistics.median(times):>7.0f}")
    for load_name, medians in latency_ms.items():
        print(f"{load_name:<32} p50, ms       {min(medians):>7.1f} {statistics.median(medians):>7.1f}")


@contextmanager
def _served(plan: Plan, photos: str) -> Iterator[str]:
    """Backend and model server; yields the backend's address."""
    port, model_port = free_port(), free_port()
    with TemporaryDirectory(prefix="lorabel-bench-") as folder:
        variables = {
            **PATIENCE,
            **plan.variables,
            "MODEL_DUAL_ENCODER": weightless(plan.folder),
            "PORT": str(port),
            "DATA_DIR": folder,
            "MODEL_SERVER_URL": f"http://127.0.0.1:{model_port}",
            "MEDIA_ALLOWED_HOSTS": photos.removeprefix("http://"),
        }
        model_server = [sys.executable, "-m", "model_server"]
        backend = [sys.executable, "-m", "gunicorn", "--config", str(gunicorn_config())]
        with (
            servers.process(model_server, f"http://127.0.0.1:{model_port}/livez", variables),
            servers.process(backend, f"http://127.0.0.1:{port}/livez", variables),
        ):
            yield f"http://127.0.0.1:{port}"


def _cpu_seconds() -> dict[str, float]:
    """CPU seconds by part, of all its processes."""
    lines = {pid: Path(f"/proc/{pid}/cmdline").read_text(errors="replace") for pid in descendants(os.getpid())}
    return {
        part: sum(cpu_seconds(pid) for pid, line in lines.items() if name in line) for part, name in PARTS.items()
    }


if __name__ == "__main__":
    main()
