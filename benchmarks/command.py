"""Measures every figure in one run on one machine, and writes a table, JSON and a picture.

    python -m benchmarks --quick                              under 3 minutes
    python -m benchmarks --only throughput --seconds 10       one subject
    python -m benchmarks --docs                               the table into docs/performance.md as well

With `--docs --only ...` the other subjects stay in the table as they were measured before, each with its machine.

The exit status is 1 if a subject breaks off. A missed goal is named in the table and does not change the status.
"""

import argparse
import logging
import sys
import time
from pathlib import Path

from benchmarks import documents, machine, picture, report, subjects
from benchmarks.plan import Plan
from benchmarks.rows import Section

FOLDER = Path("build/bench")
SECONDS, QUICK_SECONDS = 10.0, 2.0
log = logging.getLogger("benchmarks")


def main() -> int:
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s %(message)s")
    options = _parse(subjects.names())
    folder: Path = options.out.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    seconds = options.seconds or (QUICK_SECONDS if options.quick else SECONDS)
    plan = Plan(folder, seconds, options.quick, options.device, options.precision)
    described = machine.describe(plan.settings)
    sections = []
    for name in options.only or subjects.names():
        print(f"{subjects.title(name)} ...", file=sys.stderr, flush=True)
        sections.append(_measure(name, plan, described))
    print(report.text(described, sections))
    (folder / "figures.json").write_text(report.as_json(described, sections))
    (folder / "figures.md").write_text(report.markdown(described, sections))
    picture.draw(described, sections, folder / "figures.png")
    print(f"written to {folder}: figures.json, figures.md, figures.png")
    if options.docs:
        documents.write(described, sections)
    return 1 if any(section.error for section in sections) else 0


def _parse(names: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=names, help="subjects; all by default")
    parser.add_argument("--quick", action="store_true", help="fewer figures, shorter measurements")
    parser.add_argument("--seconds", type=float, help=f"of one measurement; {SECONDS:g}, quick {QUICK_SECONDS:g}")
    parser.add_argument("--device", default="auto", help="as DEVICE")
    parser.add_argument(
        "--precision", default="auto", choices=("auto", "float32", "bfloat16"), help="as PRECISION"
    )
    parser.add_argument("--out", type=Path, default=FOLDER, help=f"folder for what is written; {FOLDER}")
    parser.add_argument("--docs", action="store_true", help="put table, JSON and picture into docs/ as well")
    return parser.parse_args()


def _measure(name: str, plan: Plan, described: machine.Machine) -> Section:
    """Measure a subject. If it breaks off, its section has the error and the others are still measured."""
    started = time.monotonic()
    try:
        rows, error = tuple(subjects.measure(name, plan)), None
    except Exception as broken:
        log.exception("%s broke off", name)
        rows, error = (), f"{type(broken).__name__}: {broken}"
    return Section(name, subjects.title(name), rows, time.monotonic() - started, error, described.line)
