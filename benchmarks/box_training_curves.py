"""Learning curves of boxes: zero-shot, LoRA, retraining the detector in full, prototypes, and the fitted head.

The tasks are drawn scenes, and the detector is the demo's (`lorabel/demo/detector`). Both data sets have the same
scenes and the same boxes. In `boxes` the labels say what is drawn, in words that the detector was trained on; in
`part numbers` they say nothing.

- LoRA: a run after each batch of annotations, as the training worker does it. It starts from the live adapter, and
  its adapter becomes live only if it is better on annotated tasks that are held out.
- full retraining: all weights of the base model, with all annotations each time, in the same loop with the same
  loss. Learning rate and steps are those that were the best on tasks of another seed (`RETRAINING_RATE`,
  `..._STEPS`).
- prototypes: nothing is trained. A label is the mean class embedding of its annotated boxes; a label without any
  annotated box keeps its text.
- head: nothing is trained. The head that the product fits after each annotation.
"""

import copy
import itertools
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any, cast

import torch
from peft import PeftModel

from benchmarks.annotated_courses import annotations_of, unchanged
from benchmarks.box_curves import Annotated, answers, head_of, mean_of, with_features
from benchmarks.curve_lora import LORA
from benchmarks.curve_report import BOXES, FULL, HEAD, PROTOTYPES, ZERO_SHOT, Point
from lorabel.demo import DETECTOR_FOLDER
from lorabel.demo.scenes import Scene, png, random_scenes
from lorabel.families.detector import Detector
from lorabel.families.encoders.heads.linear_head import LinearHead
from lorabel.labeling.image_regions import image_region
from lorabel.problems.binding import BoundConfig, bind
from lorabel.settings import Settings
from tests.e2e.courses import LabeledTask, data_url
from workers import evaluate, examples, lora
from workers.attempt import TrainingContext
from workers.candidate import make_candidate
from workers.services import Services

# Pairs of colour and shape with their labels in the two data sets; things of the last pair have no label.
PAIRS = (("red", "circle"), ("blue", "square"), ("green", "star"), ("red", "cross"))
SAID, UNSAID = ("red circle", "blue square", "green star"), ("part 4711", "part 0815", "part 1905")
SIZE = (192, 144)
TESTED = 60
TEST_SEED, SEED = 900, 100
COUNTS, QUICK_COUNTS = (5, 10, 20, 40), (10,)
SEEDS = 2
RETRAINING_RATE, RETRAINING_STEPS, RETRAINING_BATCH = 1e-3, 120, 16
Learn = Callable[["Subject", Sequence[int]], Iterator[tuple[int, float, float]]]
"""Yields numbers of annotations, each with mAP@50 on the test tasks and the seconds of the last run."""


@dataclass(frozen=True)
class Subject:
    """A data set with one seed.

    Args:
        tasks: in the order in which they are annotated.
        test: the test tasks, prepared for the family.
        folder: for the adapters.
    """

    services: Services
    bound: BoundConfig
    family: Detector
    tasks: Sequence[LabeledTask]
    test: Sequence[examples.PreparedExample]
    seed: int
    folder: Path

    def plan(self, count: int, old: int = 0, held_out_percent: int | None = None) -> examples.TrainingPlan:
        """What is learned from the first `count` tasks, of which `old` were in earlier runs."""
        settings = self.services.settings
        if held_out_percent is not None:
            settings = settings.model_copy(update={"held_out_percent": held_out_percent})
        annotations = annotations_of(self.tasks[:count], old)
        seed = self.seed + count
        return examples.make_plan(self.bound.bindings[0], self.bound.config, annotations, settings, seed)

    def all_examples(self, count: int) -> list[examples.PreparedExample]:
        """The first `count` tasks, prepared for the family."""
        prepared, _ = examples.prepare(
            self.plan(count, held_out_percent=0).train, self.family, unchanged, self.services.fetcher.fetch
        )
        return prepared

    def score(self, outputs: Sequence[Any]) -> float:
        """mAP@50 of the answers to the test tasks."""
        return float(evaluate.compute_metrics(self.bound.bindings[0], self.test, outputs).values["map_50"])


def label_config(labels: Sequence[str]) -> str:
    """Rectangles with these labels."""
    values = "".join(f'<Label value="{label}"/>' for label in labels)
    tags = '<Image name="image" value="$image"/><RectangleLabels name="box" toName="image">'
    return f"<View>{tags}{values}</RectangleLabels></View>"


def labeled_tasks(labels: Sequence[str], seed: int, count: int) -> list[LabeledTask]:
    """Scenes with the right boxes."""
    scenes = itertools.islice(random_scenes(seed, SIZE, pairs=PAIRS), count)
    return [({"image": data_url(png(scene), "image/png")}, _regions(scene, labels)) for scene in scenes]


def _regions(scene: Scene, labels: Sequence[str]) -> list[Any]:
    names = dict(zip(PAIRS, labels, strict=False))
    labelled = [(thing.corners, names.get((thing.colour, thing.shape))) for thing in scene.things]
    return [
        image_region("box", "image", "rectanglelabels", corners, SIZE, {"rectanglelabels": [name]})
        for corners, name in labelled
        if name is not None
    ]


def measure(name: str, counts: Sequence[int], seeds: int) -> Iterator[Point]:
    """Yield the points of each way to learn."""
    with TemporaryDirectory() as folder:
        models = {"detector": f"local-dir:{DETECTOR_FOLDER}"}
        services = Services.open(Settings(data_dir=Path(folder), models=models, precision="float32"))
        try:
            for seed in range(seeds):
                subject = make_subject(services, BOX_COURSES[name], seed, Path(folder) / f"{seed}")
                outputs = evaluate.predict(subject.family, subject.test, services.settings.max_batch)
                yield Point(name, ZERO_SHOT, seed, 0, subject.score(outputs), None, 0.0, BOXES)
                for way, learn in WAYS.items():
                    print(f"{name}, {way}, seed {seed} ...", file=sys.stderr, flush=True)
                    for count, figure, seconds in learn(subject, counts):
                        yield Point(name, way, seed, count, figure, None, seconds, BOXES)
        finally:
            services.close()


def make_subject(
    services: Services, labels: Sequence[str], seed: int, folder: Path, test_seed: int = TEST_SEED
) -> Subject:
    bound = bind(label_config(labels))
    family = services.family(Detector)
    assert isinstance(family, Detector)
    tasks = labeled_tasks(labels, SEED + seed, max(COUNTS))
    tested = Subject(services, bound, family, labeled_tasks(labels, test_seed, TESTED), (), seed, folder)
    return replace(tested, tasks=tasks, test=tested.all_examples(TESTED))


def _lora(subject: Subject, counts: Sequence[int]) -> Iterator[tuple[int, float, float]]:
    services, problem, family = subject.services, subject.bound.bindings[0], subject.family
    recipe, live = lora.Recipe.from_settings(services.settings, "float32"), None
    for before, count in zip((0, *counts), counts, strict=False):
        began, plan, folder = time.monotonic(), subject.plan(count, before), subject.folder / f"{count}"
        context = TrainingContext(live, unchanged)
        attempt = make_candidate(services, problem, family, plan, context, recipe, folder, lambda _: None)
        if attempt.candidate is None:
            raise RuntimeError(f"nothing could be learned from {count} annotations")
        live = folder if attempt.candidate.judgement.is_accepted else live
        seconds = time.monotonic() - began
        with lora.adapted(family, plan.train[0].question, live, recipe) as model, lora.with_live(model, live):
            outputs = evaluate.predict(family, subject.test, services.settings.max_batch)
        yield count, subject.score(outputs), seconds


def _in_full(subject: Subject, counts: Sequence[int]) -> Iterator[tuple[int, float, float]]:
    services = subject.services
    recipe = replace(
        lora.Recipe.from_settings(services.settings, "float32"),
        learning_rate=RETRAINING_RATE,
        steps=RETRAINING_STEPS,
        batch=RETRAINING_BATCH,
    )
    for count in counts:
        began = time.monotonic()
        retrained = retrain(subject, count, recipe)
        seconds = time.monotonic() - began
        outputs = evaluate.predict(retrained, subject.test, services.settings.max_batch)
        yield count, subject.score(outputs), seconds


def retrain(subject: Subject, count: int, recipe: lora.Recipe) -> Detector:
    """The family with all weights trained on the first `count` tasks."""
    torch.manual_seed(recipe.seed)
    module = copy.deepcopy(subject.family.module).requires_grad_(True)
    family = replace(subject.family, module=module)
    # The loop of a run trains whatever weights of a module need a gradient.
    lora.fine_tune(family, cast(PeftModel, module), subject.all_examples(count), recipe, lambda _: None)
    module.requires_grad_(False)
    return family


def _fitted(fit: Callable[[Sequence[Annotated]], LinearHead | None]) -> Learn:
    """A way that trains nothing, and answers with a head that `fit` makes of the annotated pictures."""

    def learn(subject: Subject, counts: Sequence[int]) -> Iterator[tuple[int, float, float]]:
        tested = _with_features(subject.family, subject.test)
        for count in counts:
            began = time.process_time()
            head = fit(_with_features(subject.family, subject.all_examples(count)))
            seconds = time.process_time() - began
            yield count, subject.score(answers(subject.family, head, tested)), seconds

    return learn


def _with_features(family: Detector, prepared: Sequence[examples.PreparedExample]) -> list[Annotated]:
    return with_features(family, [each.model_input for each in prepared], [each.target for each in prepared])


BOX_COURSES: Mapping[str, Sequence[str]] = MappingProxyType({"boxes": SAID, "part numbers": UNSAID})
WAYS: Mapping[str, Learn] = MappingProxyType(
    {LORA: _lora, FULL: _in_full, PROTOTYPES: _fitted(mean_of), HEAD: _fitted(head_of)}
)
