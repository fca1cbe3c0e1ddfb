"""Heads against LoRA, for every kind of question: on the courses of the end-to-end tests, and on two drawn ones.

    python -m benchmarks.kinds                    three orders of the tasks
    python -m benchmarks.kinds --only rating      one course
    python -m benchmarks.kinds --seeds 1          one order

A part of a course's tasks is annotated; the metric that decides about promotion is computed on the others, which
nobody annotates:

- zero-shot: the base model alone;
- LoRA: one training run of today's recipe, whether or not its adapter would be accepted;
- head: the head that is fitted on the base model's features, without LoRA.
"""

import argparse
import io
import logging
import random
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any

from benchmarks import machine
from benchmarks.annotated_courses import annotations_of, unchanged
from lorabel.contracts import Contract
from lorabel.demo import MODEL_FOLDER, captions
from lorabel.demo.pictures import Picture, random_pictures
from lorabel.evaluation.metrics import Metrics
from lorabel.families.base import Family, NoBatchAdapters
from lorabel.families.cache import FEATURES, TEXTS, FeatureCache
from lorabel.families.encoders.heads.fit import Example, fit_head
from lorabel.families.loading import family_for
from lorabel.feature_contracts import Features, FeaturesInput
from lorabel.labeling.regions import choices
from lorabel.problems.base import Problem
from lorabel.problems.binding import BoundConfig, bind
from lorabel.settings import Settings
from tests.e2e import courses
from tests.e2e.courses import Course, LabeledTask, data_url
from workers import evaluate, examples, lora
from workers.attempt import TrainingContext
from workers.candidate import make_candidate
from workers.examples import PreparedExample
from workers.services import Services

SEEDS = 3
# Share of a course's tasks that is annotated.
ANNOTATED = 0.5
BATCH = 64
SIDE_PX = 64
DRAWN = 320
# Labels of `several`, which do not describe what they stand for.
PROPERTIES: Mapping[str, Callable[[Picture], bool]] = MappingProxyType(
    {
        "tag 1": lambda picture: picture.colour in ("red", "orange", "yellow", "pink"),
        "tag 2": lambda picture: picture.shape in ("circle", "heart", "moon", "flower"),
        "tag 3": lambda picture: picture.size == "large",
        "tag 4": lambda picture: picture.fill == "striped",
    }
)


def several() -> Course:
    """Drawn shapes with any number of four labels."""
    tasks: list[LabeledTask] = []
    for picture in islice(random_pictures(31), DRAWN):
        names = [name for name, has_property in PROPERTIES.items() if has_property(picture)]
        tasks.append(({"image": _url(picture)}, [choices("label", "image", names)]))
    values = "".join(f'<Choice value="{name}"/>' for name in PROPERTIES)
    control = f'<Choices name="label" toName="image" choice="multiple">{values}</Choices>'
    return _demo_course(f'<View><Image name="image" value="$image"/>{control}</View>', tasks)


def match() -> Course:
    """A drawn shape with a caption, which names its colour and shape, or another colour or another shape."""
    dice = random.Random(4)
    tasks: list[LabeledTask] = []
    for number, picture in enumerate(islice(random_pictures(32), DRAWN)):
        words = captions.describe(picture, ("colour", "shape"))
        is_match = number % 2 == 0
        if not is_match:
            name = dice.choice(("colour", "shape"))
            words[name] = dice.choice([word for word in captions.WORDS[name] if word != words[name]])
        data = {"image": _url(picture), "text": captions.write(words, dice)}
        tasks.append((data, [choices("label", "image", ["match" if is_match else "mismatch"])]))
    config = (
        '<Image name="image" value="$image"/><Text name="text" value="$text"/><Choices name="label" '
        'toName="image,text"><Choice value="match"/><Choice value="mismatch"/></Choices>'
    )
    return _demo_course(f"<View>{config}</View>", tasks)


DRAWN_COURSES: Mapping[str, Callable[[], Course]] = MappingProxyType({"several": several, "match": match})


@dataclass(frozen=True)
class Figures:
    """The metric of each way to learn, and seconds."""

    zero_shot: float
    lora: float
    head: float
    lora_s: float
    head_s: float


def main() -> int:
    logging.basicConfig(level=logging.ERROR, format="%(levelname)s %(name)s %(message)s")
    names = [*courses.names(), *DRAWN_COURSES]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kinds", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=names, help="courses; all by default")
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"orders of the tasks; {SEEDS}")
    options = parser.parse_args()
    print(machine.describe(Settings(precision="float32")))
    print("| course | control tag | annotated | tested | metric | zero-shot | LoRA | head | s LoRA | s head |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name in options.only or names:
        course = DRAWN_COURSES[name]() if name in DRAWN_COURSES else courses.load(name)
        _print_course(name, course, options.seeds)
    return 0


def _print_course(name: str, course: Course, seeds: int) -> None:
    runs: dict[tuple[str, str], list[Figures]] = {}
    count = round(ANNOTATED * len(course.tasks))
    for seed in range(seeds):
        tasks = random.Random(seed).sample(list(course.tasks), len(course.tasks))
        with TemporaryDirectory() as folder:
            variables = course.variables(Path(folder) / "model")
            models = {variable.removeprefix("MODEL_").lower(): source for variable, source in variables.items()}
            settings = Settings(data_dir=Path(folder), models=models, seed=seed, precision="float32")
            services = Services.open(settings)
            try:
                for problem in bind(course.label_config).bindings:
                    subject = Subject(services, bind(course.label_config), problem, Path(folder), seed)
                    metric, figures = subject.measure(tasks[:count], tasks[count:])
                    runs.setdefault((problem.from_name, metric), []).append(figures)
            finally:
                services.close()
    for (tag, metric), measured in runs.items():
        cells = [
            " ".join(f"{value:.2f}" for value in sorted(getattr(figures, way) for figures in measured))
            for way in ("zero_shot", "lora", "head")
        ]
        seconds = [
            statistics.median(getattr(figures, way) for figures in measured) for way in ("lora_s", "head_s")
        ]
        sizes = f"{count} | {len(course.tasks) - count}"
        columns = (name, tag, sizes, metric, *cells, f"{seconds[0]:.1f}", f"{seconds[1]:.3f}")
        print(f"| {' | '.join(columns)} |", flush=True)


@dataclass(frozen=True)
class Subject:
    """A control tag, and what is needed to learn it."""

    services: Services
    bound: BoundConfig
    problem: Problem
    folder: Path
    seed: int

    def measure(self, annotated: Sequence[LabeledTask], test: Sequence[LabeledTask]) -> tuple[str, Figures]:
        """The name of the metric, and the figures."""
        everything = self.services.settings.model_copy(update={"held_out_percent": 0})
        tested, learned = (self._prepare(tasks, everything) for tasks in (test, annotated))
        zero_shot = self._score(tested, None)
        began = time.monotonic()
        adapter = self._train(annotated)
        lora_s = time.monotonic() - began
        trained = self._score(tested, adapter)
        fitted, head_s = self._score_head(learned, tested)
        metric = zero_shot.primary
        before, by_lora, by_head = (float(each.values[metric] or 0.0) for each in (zero_shot, trained, fitted))
        return metric, Figures(before, by_lora, by_head, lora_s, head_s)

    @property
    def _recipe(self) -> lora.Recipe:
        return lora.Recipe.from_settings(self.services.settings, "float32")

    def _prepare(self, tasks: Sequence[LabeledTask], settings: Settings) -> list[PreparedExample]:
        plan = examples.make_plan(self.problem, self.bound.config, annotations_of(tasks), settings, self.seed)
        prepared, _ = examples.prepare(plan.train, self._family(tasks), unchanged, self.services.fetcher.fetch)
        return prepared

    def _family(self, tasks: Sequence[LabeledTask]) -> Family:
        return self.services.family(family_for(self.problem.model_input(tasks[0][0])))

    def _train(self, tasks: Sequence[LabeledTask]) -> Path:
        """Do what a training worker does with these annotations; a fifth of them is held out."""
        settings, folder = self.services.settings, self.folder / f"adapter-{self.problem.from_name}"
        plan = examples.make_plan(self.problem, self.bound.config, annotations_of(tasks), settings, self.seed)
        context = TrainingContext(None, unchanged)
        make_candidate(
            self.services, self.problem, self._family(tasks), plan, context, self._recipe, folder, lambda _: None
        )
        return folder

    def _score(self, tested: Sequence[PreparedExample], adapter: Path | None) -> Metrics:
        question = tested[0].training_example.question
        family = self.services.family(family_for(question))
        with lora.adapted(family, question, adapter, self._recipe) as model:
            precomputed = lora.precompute(family, model, tested, None)
            with lora.with_live(model):
                return evaluate.score(self.problem, family, precomputed, BATCH)

    def _score_head(
        self, learned: Sequence[PreparedExample], tested: Sequence[PreparedExample]
    ) -> tuple[Metrics, float]:
        """The metrics with a head, and the seconds of its fit."""
        questions = [example.training_example.question for example in learned]
        family = self.services.family(family_for(questions[0]))
        fetch = self.services.fetcher.fetch
        answers = _predict(family, [family.prepare(FeaturesInput.of(question), fetch) for question in questions])
        annotated = [
            Example.of(question, answer, example.target)
            for question, answer, example in zip(questions, answers, learned, strict=True)
            if isinstance(answer, Features)
        ]
        began = time.monotonic()
        head = fit_head(annotated, f"{family.name} {family.source}")
        seconds = time.monotonic() - began
        outputs = _predict(family, [family.with_head(example.model_input, head) for example in tested])
        return self.problem.metrics([example.target for example in tested], outputs), seconds


def _predict(family: Family, inputs: Sequence[Any]) -> list[Contract]:
    bank, cache = NoBatchAdapters(), FeatureCache({FEATURES: 10**9, TEXTS: 10**9})
    batches = [inputs[start : start + BATCH] for start in range(0, len(inputs), BATCH)]
    return [output for batch in batches for output in family.predict(batch, [None] * len(batch), bank, cache)]


def _demo_course(config: str, tasks: Sequence[LabeledTask]) -> Course:
    variables = {"MODEL_DUAL_ENCODER": f"local-dir:{MODEL_FOLDER}"}
    return Course(config, tasks, lambda _: variables, {"label": "accuracy"})


def _url(picture: Picture) -> str:
    file = io.BytesIO()
    picture.draw(SIDE_PX).save(file, "PNG")
    return data_url(file.getvalue(), "image/png")


if __name__ == "__main__":
    sys.exit(main())
