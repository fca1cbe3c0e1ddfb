"""What kinds of adapters learn, and what they cost to train and to serve.

    python -m benchmarks.peft_kinds                                all sets, three seeds
    python -m benchmarks.peft_kinds --only digits --seeds 1        others as before
    python -m benchmarks.peft_kinds --only serving --docs          and put the tables into docs/learning.md
    python -m benchmarks.peft_kinds --only digits --kinds ia3 --shares 0.1 1 10 --first-seed 100 \\
        --figures build/peft_kinds/sweep.json                      other rates, in a file of their own

`digits` and `tickets` are those of `benchmarks.curves`: 160 annotations, an adapter on the towers that read the
contents, then the head on both features, as in a run beside a head, but with each of its two rates, and without
the gate. `boxes` are drawn scenes, 20 annotations, a run that begins anew, also without its gate. What is tested
was never annotated. `serving` is the pass of a batch of 64 pictures through the image tower of the demo's
model, in which every row has one of 8 adapters.

Rates are shares of LEARNING_RATE.

Figures are added to those of earlier calls in the file of figures. The tables are about all of them.
"""

import argparse
import itertools
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from peft import get_peft_model
from torch import Tensor

from benchmarks import box_training_curves as boxes
from benchmarks import lora_depth
from benchmarks.annotated_courses import annotations_of, unchanged
from benchmarks.kept_figures import KeptFigures
from benchmarks.machine import describe
from lorabel.adapter_kinds import KINDS, LORA
from lorabel.contracts import Input
from lorabel.database.adapter_folders import AdapterFolders
from lorabel.demo import DETECTOR_FOLDER, MODEL_FOLDER
from lorabel.families.base import Family
from lorabel.families.dual_encoder import DualEncoder
from lorabel.families.loading import load_family
from lorabel.settings import Settings
from model_server.adapters import AdapterBank
from workers import evaluate, examples, lora, peft_kinds
from workers.beside_head import LARGE_STEPS, SMALL_STEPS, recipe_for
from workers.services import Services

CHOICES = ("digits", "tickets")
BOXES, SERVING = "boxes", "serving"
# Of LEARNING_RATE: those that a run tries beside a head, and that of a run that begins anew.
SHARES, BOX_SHARES = (SMALL_STEPS, LARGE_STEPS), (1.0,)
CHOICE_COUNT, BOX_COUNT, SEEDS = 160, 20, 3
BATCH, ADAPTERS, ROUNDS, RANK, STD = 64, 8, 20, 8, 0.02
MIXED = "all kinds mixed"
FIGURES = Path("build/peft_kinds/peft_kinds.json")
TRAININGS, PASSES = "trainings", "passes"
PAGE = Path("docs/learning.md")
BEGIN, END = "<!-- kinds of adapters -->\n", "<!-- end of kinds of adapters -->"


@dataclass(frozen=True)
class Figure:
    """One training.

    Args:
        rate: AdamW's.
        correct: accuracy on tasks that nobody annotated, of boxes mAP@50.
        weights: how many are trained.
        seconds: of CPU, of the training.
        log_loss: on the same tasks; None of boxes. It tells rates apart sooner than `correct` does.
    """

    name: str
    kind: str
    rate: float
    seed: int
    correct: float
    weights: int
    seconds: float
    log_loss: float | None = None


@dataclass(frozen=True)
class Pass:
    """The seconds of the passes of batches with adapters of a kind, in rounds that each measured every kind."""

    kind: str
    seconds: list[float]


def main() -> int:
    options = _parse()
    torch.set_num_threads(options.threads)
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    kept, kinds = KeptFigures(options.figures), options.kinds
    described = describe(Settings(precision="float32")).line
    for name in options.only:
        with TemporaryDirectory(prefix="lorabel-bench-") as folder:
            if name == SERVING:
                kept.add(PASSES, map(asdict, _passes(Path(folder))), ("kind",), described)
                continue
            figures = (
                _boxes(seeds, kinds, options.shares or BOX_SHARES, Path(folder))
                if name == BOXES
                else _choices(name, seeds, kinds, options.shares or SHARES, Path(folder))
            )
            for figure in figures:
                print(figure, file=sys.stderr, flush=True)
                kept.add(TRAININGS, [asdict(figure)], ("name", "kind", "rate", "seed"), described)
    tables = text(kept)
    print(tables)
    if options.docs:
        before, rest = PAGE.read_text().split(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}{tables}\n{END}{rest.split(END)[1]}")
    return 0


def _choices(
    name: str, seeds: Sequence[int], kinds: Sequence[str], shares: Sequence[float], folder: Path
) -> Iterator[Figure]:
    data_set = lora_depth.DataSet.of(lora_depth.SETS[name]())
    models = dict(data_set.models(folder / "model"))
    services = Services.open(Settings(data_dir=folder, models=models, precision="float32"))
    try:
        subject = lora_depth.make_subject(services, data_set)
        for seed in seeds:
            yield from _choice(subject, seed, kinds, shares, folder / f"{seed}")
    finally:
        services.close()


def _choice(
    subject: lora_depth.Subject, seed: int, kinds: Sequence[str], shares: Sequence[float], folder: Path
) -> Iterator[Figure]:
    """The head alone, and each kind with the rates that a run tries."""
    services, family, data_set = subject.services, subject.family, subject.data_set
    annotations = annotations_of(data_set.tasks[index] for index in data_set.order(seed)[:CHOICE_COUNT])
    plan = examples.make_plan(
        subject.bound.bindings[0], subject.bound.config, annotations, services.settings, seed
    )
    learned = [*plan.train, *plan.held_out]
    question = learned[0].question
    train, _ = examples.prepare(learned, family, unchanged, services.fetcher.fetch)
    alone, log_loss = lora_depth.score(
        subject, learned, None, _recipe(services, family, question, LORA, 1.0, seed)
    )
    yield Figure(data_set.name, "head alone", 0.0, seed, alone, 0, 0.0, log_loss)
    for kind in kinds:
        for share in shares:
            way = _recipe(services, family, question, kind, share, seed)
            adapter = folder / f"{kind}-{share}"
            weights, seconds = _train(family, train, way, adapter)
            correct, log_loss = lora_depth.score(subject, learned, adapter, way)
            yield Figure(data_set.name, kind, way.learning_rate, seed, correct, weights, seconds, log_loss)


def _recipe(
    services: Services, family: Family, question: Input, kind: str, share: float, seed: int
) -> lora.Recipe:
    """The recipe of a run whose kind is set, with a share of its rate."""
    settings = services.settings.model_copy(update={"seed": seed, "lora_kind": kind})
    recipe = recipe_for(family, question, lora.Recipe.from_settings(settings, "float32"), settings)
    return replace(recipe, learning_rate=share * recipe.learning_rate)


def _boxes(seeds: Sequence[int], kinds: Sequence[str], shares: Sequence[float], folder: Path) -> Iterator[Figure]:
    models = {"detector": f"local-dir:{DETECTOR_FOLDER}"}
    services = Services.open(Settings(data_dir=folder, models=models, precision="float32"))
    try:
        for seed in seeds:
            subject = boxes.make_subject(services, boxes.UNSAID, seed, folder / f"{seed}")
            family = subject.family
            batch = services.settings.max_batch
            zero_shot = subject.score(evaluate.predict(family, subject.test, batch))
            yield Figure(BOXES, "no training", 0.0, seed, zero_shot, 0, 0.0)
            prepared = subject.all_examples(BOX_COUNT)
            question = prepared[0].training_example.question
            for kind, share in itertools.product(kinds, shares):
                way = _recipe(services, family, question, kind, share, seed)
                adapter = folder / f"{seed}-{kind}-{share}"
                weights, seconds = _train(family, prepared, way, adapter)
                with lora.adapted(family, question, adapter, way) as model, lora.with_live(model, adapter):
                    correct = subject.score(evaluate.predict(family, subject.test, batch))
                yield Figure(BOXES, kind, way.learning_rate, seed, correct, weights, seconds)
    finally:
        services.close()


def _train(
    family: Family, train: Sequence[examples.PreparedExample], recipe: lora.Recipe, folder: Path
) -> tuple[int, float]:
    """Write a trained adapter into the folder. Returns how many weights were trained, and the seconds of CPU."""
    question = train[0].training_example.question
    with lora.adapted(family, question, None, recipe) as model:
        weights = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
        began = time.process_time()
        prepared = train if recipe.is_for_head else lora.precompute(family, model, train, None)
        lora.fine_tune(family, model, prepared, recipe, lambda _: None)
        seconds = time.process_time() - began
        lora.save(model, folder)
    return weights, seconds


def _passes(folder: Path) -> list[Pass]:
    """Each kind has a bank and a model of its own, as on a server on which all projects have that kind."""
    folders = AdapterFolders(folder)
    settings = Settings(models={"dual_encoder": f"local-dir:{MODEL_FOLDER}"}, precision="float32")
    pixels = torch.randn(BATCH, 3, 64, 64)
    versions = {kind: _write(folders, settings, kind, number) for number, kind in enumerate(KINDS)}
    versions[MIXED] = [versions[KINDS[index % len(KINDS)]][index] for index in range(ADAPTERS)]
    forwards = {name: _forward(settings, folders, names, pixels) for name, names in versions.items()}
    seconds: dict[str, list[float]] = {name: [] for name in forwards}
    for _ in range(ROUNDS):
        for name, forward in forwards.items():
            began = time.perf_counter()
            forward()
            seconds[name].append(time.perf_counter() - began)
    # The first round warms up.
    return [Pass(name, of_rounds[1:]) for name, of_rounds in seconds.items()]


def _write(folders: AdapterFolders, settings: Settings, kind: str, number: int) -> list[str]:
    """Write adapters whose every weight differs from its beginning. Returns their names."""
    family = load_family(DualEncoder, settings)
    layers = lora.only(name for name in family.lora_layers() if name.startswith("visual."))
    model = get_peft_model(family.module, peft_kinds.new_config(kind, RANK, layers, 40))
    versions = [f"p{number * ADAPTERS + index + 1}.v1" for index in range(ADAPTERS)]
    for version in versions:
        for weight in model.parameters():
            if weight.requires_grad:
                weight.data += STD * torch.randn_like(weight)
        folders.write(version, lambda target: model.save_pretrained(target / "label"))
    return [f"{version}/label" for version in versions]


def _forward(
    settings: Settings, folders: AdapterFolders, names: Sequence[str], pixels: Tensor
) -> Callable[[], Tensor]:
    family = load_family(DualEncoder, settings)
    bank = AdapterBank(family, folders, memory_bytes=sys.maxsize)
    rows = [names[row % len(names)] for row in range(len(pixels))]

    @torch.inference_mode()
    def forward() -> Tensor:
        with bank.use(rows):
            features: Tensor = family.module.encode_image(pixels)  # type: ignore[operator]
        return features

    return forward


def text(kept: KeptFigures) -> str:
    """The tables in Markdown: medians over the seeds, and the lowest and highest."""
    trainings = [Figure(**figure) for figure in kept.of(TRAININGS)]
    passes = [Pass(**one_pass) for one_pass in kept.of(PASSES)]
    return "\n\n".join([kept.machines(), *_training_table(trainings), *_pass_table(passes)])


def _training_table(trainings: Sequence[Figure]) -> list[str]:
    cells: dict[tuple[str, str, float], list[Figure]] = defaultdict(list)
    for figure in trainings:
        cells[figure.name, figure.kind, figure.rate].append(figure)
    lines = ["| set | kind | rate | right, median (range) | log-loss | seeds | trained weights | CPU seconds |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for (name, kind, rate), figures in sorted(cells.items(), key=lambda cell: _place(*cell[0])):
        right = [figure.correct for figure in figures]
        seconds = statistics.median(figure.seconds for figure in figures)
        losses = [figure.log_loss for figure in figures if figure.log_loss is not None]
        cells_of_row = (
            name,
            kind,
            f"{rate:.4}" if rate else "",
            f"{statistics.median(right):.3f} ({min(right):.3f} to {max(right):.3f})",
            f"{statistics.median(losses):.3f}" if losses else "",
            f"{len(figures)}",
            f"{figures[0].weights or ''}",
            f"{seconds:.3}" if seconds else "",
        )
        lines.append(f"| {' | '.join(cells_of_row)} |")
    return ["\n".join(lines)] if trainings else []


def _place(name: str, kind: str, rate: float) -> tuple[int, int, float]:
    """Where a row stands in the table: what has no adapter comes first."""
    return (*CHOICES, BOXES).index(name), KINDS.index(kind) if kind in KINDS else -1, rate


def _pass_table(passes: Sequence[Pass]) -> list[str]:
    of_lora = next((one_pass.seconds for one_pass in passes if one_pass.kind == LORA), [])
    lines = [
        f"| kind of all {ADAPTERS} adapters | ms for {BATCH} rows, median | of plain LoRA's |",
        "|---|---|---|",
    ]
    for one_pass in passes:
        median_ms = 1000 * statistics.median(one_pass.seconds)
        ratio = statistics.median(a / b for a, b in zip(one_pass.seconds, of_lora, strict=True))
        lines.append(f"| {one_pass.kind} | {median_ms:.1f} | {ratio:.2f} |")
    return ["\n".join(lines)] if passes else []


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peft_kinds",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = [*CHOICES, BOXES, SERVING]
    parser.add_argument("--only", nargs="*", choices=names, default=names, help="what is measured; may be nothing")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--shares", nargs="+", type=float, help="of LEARNING_RATE; by default a run's")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="how many")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--figures", type=Path, default=FIGURES, help=f"file of figures; {FIGURES}")
    parser.add_argument("--docs", action="store_true", help="put the tables into docs/learning.md as well")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
