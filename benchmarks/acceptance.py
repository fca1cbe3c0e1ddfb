"""How often the promise of `lorabel accept` is missed, over many divisions into annotated and open tasks.

    python -m benchmarks.acceptance                        200 seeds of each data set: half an hour
    python -m benchmarks.acceptance --only digits --seeds 20
    python -m benchmarks.acceptance --docs                 and put the table into docs/accept.md

A seed divides the tasks of a data set into annotated and open ones. As in the product (`workers/unseen_cases.py`),
each annotated task is answered by a head that was fitted without its part, and the open tasks by a head that was
fitted on all. Then `prove` chooses scores, and the truth about the open tasks tells whether the promise was kept.

- each label: there is a promise about each label by itself.
- together: there is one promise about all that is accepted.

The goal is what the confidence permits: of the promises that were asked for, one in each division or one for each
label, no more than 5% are missed. Where nothing is accepted, none is missed. Beside it the interval of Clopper and
Pearson (95%), which takes the labels of a division as independent.
`right without choosing` is the part of the predicted open tasks that is right. If no score reaches what is asked
for, whatever is accepted is accepted by luck, and most of it is missed: that too must be no more than 5% of all.

Figures are added to those of earlier calls in build/acceptance/acceptance.json. The table is about all of them.
"""

import argparse
import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from scipy.stats import binomtest
from threadpoolctl import threadpool_limits

from benchmarks import machine
from benchmarks.acceptance_sets import DATA_SETS, Answer, DataSet
from benchmarks.kept_figures import KeptFigures
from lorabel.curation.proven_precision import Case, prove, smallest_breach
from lorabel.curation.whole_answers import ALL_LABELS
from lorabel.settings import Settings
from workers.unseen_cases import FOLDS

SEEDS = 200
CONFIDENCE = 0.95
MOST_MISSED = 0.05
EACH, TOGETHER = "each label", "together"
FIGURES = KeptFigures(Path("build/acceptance/acceptance.json"))
TALLIES = "tallies"
PAGE = Path("docs/accept.md")
BEGIN, END = "<!-- acceptance -->\n", "<!-- end of acceptance -->"
HEADER = (
    "| data set | annotated, open | right without choosing | promised | promise about | accepted | missed, of all "
    "| open tasks accepted | lowest precision reached | errors of a promise, expected and found |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n"
)


@dataclass
class Tally:
    """What came of the seeds, for one data set, precision and kind of promise.

    Attributes:
        asked: how often a promise was asked for.
        promises: how often something was accepted.
        missed: how often that had too many errors.
        right: the part of the predicted open tasks that is right, of each seed.
        coverage: the part of the open tasks that was accepted, of each seed.
        reached: the part of the accepted tasks that was right, of each seed in which there were any.
        expected: how many errors were expected among the accepted tasks, of each seed.
        errors: how many there were, of each seed.
    """

    name: str
    annotated: int
    unseen: int
    precision: float
    promise: str
    asked: int = 0
    promises: int = 0
    missed: int = 0
    right: list[float] = field(default_factory=list)
    coverage: list[float] = field(default_factory=list)
    reached: list[float] = field(default_factory=list)
    expected: list[float] = field(default_factory=list)
    errors: list[int] = field(default_factory=list)

    @property
    def is_kept(self) -> bool:
        return self.missed <= MOST_MISSED * self.asked

    def add(self, cases: Sequence[Answer], unseen: Sequence[Answer]) -> None:
        """Count one seed."""
        accepted, errors, expected = 0, 0, 0.0
        labels = _labels(cases, unseen) if self.promise == EACH else [ALL_LABELS]
        self.asked += len(labels)
        for label in labels:
            known, asked = _of(cases, label), _of(unseen, label)
            scores = [answer.score for answer in asked]
            proof = prove(_cases(known), scores, self.precision, CONFIDENCE, (), _cases(cases))
            if proof.score is None:
                continue
            chosen = [answer for answer in asked if answer.score >= proof.score]
            wrong = sum(not answer.is_right for answer in chosen)
            self.promises += 1
            self.missed += wrong >= smallest_breach(len(chosen), self.precision)
            accepted, errors, expected = accepted + len(chosen), errors + wrong, expected + proof.expected_errors
        self.right.append(sum(answer.is_right for answer in unseen) / len(unseen))
        self.coverage.append(accepted / self.unseen)
        self.expected.append(expected)
        self.errors.append(errors)
        if accepted:
            self.reached.append(1 - errors / accepted)

    def row(self) -> str:
        """A line of the table."""
        interval = binomtest(self.missed, self.asked).proportion_ci(method="exact")
        expected, errors = (sum(counts) / max(1, self.promises) for counts in (self.expected, self.errors))
        cells = (
            self.name,
            f"{self.annotated}, {self.unseen}",
            f"{np.mean(self.right):.1%}",
            f"{self.precision:g}",
            self.promise,
            f"{self.promises} of {self.asked}",
            f"{self.missed}: {self.missed / self.asked:.1%} ({interval.low:.1%} to {interval.high:.1%})",
            f"{np.mean(self.coverage):.1%}",
            f"{min(self.reached):.3f}" if self.reached else "-",
            f"{expected:.1f}, {errors:.1f}" if self.promises else "-",
        )
        return f"| {' | '.join(cells)} |\n"


def main() -> int:
    options = _parse()
    torch.set_num_threads(1)
    described = machine.describe(Settings(precision="float32")).line
    tallies: list[Tally] = []
    for name in options.only:
        began = time.monotonic()
        with TemporaryDirectory() as folder, threadpool_limits(1):
            measured = measure(DATA_SETS[name](Path(folder)), options.seeds)
        tallies += measured
        FIGURES.add(TALLIES, map(asdict, measured), ("name", "precision", "promise"), described)
        print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        print("".join(tally.row() for tally in measured), end="", file=sys.stderr, flush=True)
    table = f"{HEADER}{''.join(tally.row() for tally in _kept())}\n{FIGURES.machines()}\n"
    print(table)
    if options.docs:
        before, rest = PAGE.read_text().split(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}{table}{END}{rest.split(END)[1]}")
    return int(not all(tally.is_kept for tally in tallies))


def measure(data: DataSet, seeds: int) -> list[Tally]:
    """Return a tally for each precision and kind of promise."""
    tallies: list[Tally] = []
    for seed in range(seeds):
        cases, unseen = divide(data, seed)
        if not tallies:
            tallies = list(_tallies(data, is_labelled=_labels(cases, unseen) != [ALL_LABELS]))
        for tally in tallies:
            tally.add(cases, unseen)
    return tallies


def _tallies(data: DataSet, *, is_labelled: bool) -> Iterator[Tally]:
    for precision in data.precisions:
        for promise in (EACH, TOGETHER) if is_labelled else (TOGETHER,):
            yield Tally(data.name, data.annotated, data.tasks - data.annotated, precision, promise)


def divide(data: DataSet, seed: int) -> tuple[list[Answer], list[Answer]]:
    """The cases and the answers to the open tasks. Tasks without an answer are in neither."""
    order = list(range(data.tasks))
    random.Random(seed).shuffle(order)
    annotated, unseen = order[: data.annotated], order[data.annotated :]
    cases: list[Answer] = []
    for fold in range(FOLDS):
        tested = annotated[fold::FOLDS]
        cases += data.answer(sorted(set(annotated) - set(tested)), tested)
    return cases, data.answer(annotated, unseen)


def _cases(answers: Sequence[Answer]) -> list[Case]:
    return [Case(answer.score, answer.is_right) for answer in answers]


def _labels(cases: Sequence[Answer], unseen: Sequence[Answer]) -> list[str]:
    return sorted({answer.label for answer in (*cases, *unseen)})


def _of(answers: Sequence[Answer], label: str) -> list[Answer]:
    return [answer for answer in answers if label in (ALL_LABELS, answer.label)]


def _kept() -> list[Tally]:
    """The figures of this and earlier calls, in the order of DATA_SETS."""
    order = list(DATA_SETS)
    return sorted((Tally(**kept) for kept in FIGURES.of(TALLIES)), key=lambda tally: order.index(tally.name))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.acceptance",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = list(DATA_SETS)
    parser.add_argument(
        "--only",
        nargs="*",
        choices=names,
        default=names,
        help="data sets; all by default, with no name only the table of earlier calls",
    )
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"divisions into annotated and open; {SEEDS}")
    parser.add_argument("--docs", action="store_true", help="put the table into docs/accept.md as well")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
