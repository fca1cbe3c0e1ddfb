"""What differential privacy costs heads in accuracy, on tasks that nobody annotated.

    python -m benchmarks.private_learning                    digits and tickets, seven seeds: a minute
    python -m benchmarks.private_learning --seeds 2 --docs   and put the table into docs/learning.md

The budget is DP_EPSILON of a project that has made all its DP_RELEASES, with the default DP_DELTA: each fit has
the noise that it has in a project, whatever the number of annotated tasks. Prints the median of the seeds for each
budget, and the worst of them. Beside it: the same fit without noise, the usual head, and the base model.
"""

import argparse
import logging
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType

import numpy as np

from benchmarks import curve_features, machine
from benchmarks.curve_courses import COURSES
from benchmarks.curve_features import Part
from lorabel.families.encoders.heads.fit_choices import fit_choices
from lorabel.families.encoders.heads.fit_private import fit_private_choices
from lorabel.families.encoders.heads.linear_head import LinearHead, probabilities
from lorabel.settings import Settings
from workers.privacy_accounting import noise_multiplier
from workers.services import Services

NAMES = ("digits", "tickets")
COUNTS = (64, 256, 1024)
EPSILONS: Mapping[str, float | None] = MappingProxyType({"1": 1.0, "3": 3.0, "8": 8.0, "no noise": None})
SEEDS = 7
PAGE = Path("docs/learning.md")
BEGIN, END = "<!-- private learning -->\n", "<!-- end of private learning -->"
HEADER = (
    "| set | annotations | epsilon 1 | epsilon 3 | epsilon 8 | no noise | usual head | base model |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- |\n"
)


def main() -> int:
    logging.basicConfig(level=logging.ERROR, format="%(levelname)s %(name)s %(message)s")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=COURSES, default=NAMES)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--docs", action="store_true", help="put the table into docs/learning.md as well")
    options = parser.parse_args()
    lines = [line for name in options.only for line in _measure(name, options.seeds)]
    described = machine.describe(Settings(precision="float32")).line
    table = (
        f"{HEADER}{''.join(lines)}\nMedians of {options.seeds} seeds, in brackets the worst of them. {described}\n"
    )
    print(table)
    if options.docs:
        before, rest = PAGE.read_text().split(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}{table}{END}{rest.split(END)[1]}")
    return 0


def _measure(name: str, seeds: int) -> list[str]:
    """A line of the table for each number of annotations, up to all tasks of the set."""
    course = COURSES[name]()
    with TemporaryDirectory() as folder:
        settings = Settings(data_dir=Path(folder), models=dict(course.models), precision="float32")
        services = Services.open(settings)
        try:
            tasks, test = curve_features.compute(services, course)
        finally:
            services.close()
    noises = {
        title: 0.0 if epsilon is None else noise_multiplier(settings.model_copy(update={"dp_epsilon": epsilon}))
        for title, epsilon in EPSILONS.items()
    }
    base = f"{_accuracy(None, test):.3f}"
    lines = []
    for count in sorted({min(count, len(tasks.classes)) for count in COUNTS}):
        cells = []
        for noise in noises.values():
            cells.append(
                _cell([_private(tasks[course.order(seed)[:count]], test, noise, seed) for seed in range(seeds)])
            )
        cells.append(_cell([_usual(tasks[course.order(seed)[:count]], test) for seed in range(seeds)]))
        lines.append(f"| {' | '.join([name, str(count), *cells, base])} |\n")
        print(lines[-1], end="", file=sys.stderr, flush=True)
    return lines


def _private(learned: Part, test: Part, noise: float, seed: int) -> float:
    generator = np.random.default_rng(seed)
    head = fit_private_choices(learned.features, learned.zero_shot, _shares(learned), noise, generator)
    return _accuracy(head, test)


def _usual(learned: Part, test: Part) -> float:
    return _accuracy(fit_choices(learned.features, learned.zero_shot, _shares(learned)), test)


def _shares(part: Part) -> "np.typing.NDArray[np.float32]":
    return np.eye(part.zero_shot.shape[1], dtype=np.float32)[part.classes]


def _accuracy(head: LinearHead | None, test: Part) -> float:
    answers = probabilities(head, test.features, test.zero_shot)
    return float((answers.argmax(1) == test.classes).mean())


def _cell(accuracies: Sequence[float]) -> str:
    return f"{statistics.median(accuracies):.3f} ({min(accuracies):.3f})"


if __name__ == "__main__":
    raise SystemExit(main())
