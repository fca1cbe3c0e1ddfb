"""Learning curves of training runs: LoRA, as the training worker does it.

- LoRA: a run after each batch of annotations, which starts from the live adapter and learns from the new
  annotations and a bounded replay of old ones. Its adapter becomes live only if it is not worse on the fifth of
  the annotated tasks that is held out.
- LoRA from scratch: a new adapter from all annotations each time, which costs more with every annotation.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from benchmarks.annotated_courses import annotations_of, chosen, unchanged
from benchmarks.curve_courses import Course, LabeledTask
from lorabel.families.base import Family
from lorabel.families.loading import family_for
from lorabel.problems.base import Problem
from lorabel.problems.binding import BoundConfig, bind
from workers import evaluate, examples, lora
from workers.attempt import TrainingContext
from workers.candidate import make_candidate
from workers.services import Services

LORA, SCRATCH = "LoRA", "LoRA from scratch"


@dataclass(frozen=True)
class Subject:
    """One data set with one seed, with what each way to learn needs.

    Args:
        labeled_tasks: the tasks in the order in which they are annotated.
        test: the test tasks, prepared for the family.
        folder: for the adapters.
    """

    services: Services
    course: Course
    bound: BoundConfig
    family: Family
    labeled_tasks: Sequence[LabeledTask]
    test: Sequence[examples.PreparedExample]
    seed: int
    folder: Path

    @property
    def problem(self) -> Problem:
        return self.bound.bindings[0]

    @property
    def recipe(self) -> lora.Recipe:
        return lora.Recipe.from_settings(self.services.settings, "float32")


def make_subject(services: Services, course: Course, seed: int, folder: Path) -> Subject:
    bound = bind(course.label_config)
    family = services.family(family_for(bound.bindings[0].model_input(course.tasks[0][0])))
    settings = services.settings.model_copy(update={"held_out_percent": 0})
    annotations = annotations_of(chosen(course.test))
    plan = examples.make_plan(bound.bindings[0], bound.config, annotations, settings, seed)
    test, _ = examples.prepare(plan.train, family, unchanged, services.fetcher.fetch)
    return Subject(services, course, bound, family, course.shuffled(seed), test, seed, folder)


def _step_by_step(subject: Subject, counts: Sequence[int]) -> Iterator[tuple[int, float, float]]:
    """For each number of annotations: that number, the accuracy, and the seconds of the last run."""
    live: Path | None = None
    for before, count in zip((0, *counts), counts, strict=False):
        seconds = 0.0
        if count:
            adapter, is_accepted, seconds = _train(subject, count, before, live, f"live-{count}")
            live = adapter if is_accepted else live
        yield count, _score(subject, live), seconds


def _from_scratch(subject: Subject, counts: Sequence[int]) -> Iterator[tuple[int, float, float]]:
    for count in counts:
        adapter, seconds = None, 0.0
        if count:
            adapter, _, seconds = _train(subject, count, 0, None, f"scratch-{count}")
        yield count, _score(subject, adapter), seconds


def _train(subject: Subject, count: int, old: int, live: Path | None, name: str) -> tuple[Path, bool, float]:
    """Do what a training worker does with the first `count` annotations, of which `old` were in earlier runs.

    Returns:
        The adapter's folder, whether the adapter is accepted, and the seconds that the run took.
    """
    services, began = subject.services, time.monotonic()
    annotations = annotations_of(chosen(subject.labeled_tasks[:count]), old)
    seed = subject.seed + count
    plan = examples.make_plan(subject.problem, subject.bound.config, annotations, services.settings, seed)
    folder = subject.folder / name
    context = TrainingContext(live, unchanged)
    attempt = make_candidate(
        services, subject.problem, subject.family, plan, context, subject.recipe, folder, lambda progress: None
    )
    if attempt.candidate is None:
        raise RuntimeError(f"{subject.course.name}: nothing could be learned from {count} annotations")
    return folder, attempt.candidate.judgement.is_accepted, time.monotonic() - began


def _score(subject: Subject, adapter: Path | None) -> float:
    """The accuracy on the test tasks with an adapter, or with the base model alone."""
    question = subject.test[0].training_example.question
    with lora.adapted(subject.family, question, adapter, subject.recipe) as model:
        test = lora.precompute(subject.family, model, subject.test, None)
        with lora.with_live(model, adapter):
            metrics = evaluate.score(subject.problem, subject.family, test, subject.services.settings.max_batch)
    return float(metrics.values["accuracy"])


WAYS: Mapping[str, Callable[[Subject, Sequence[int]], Iterator[tuple[int, float, float]]]] = MappingProxyType(
    {LORA: _step_by_step, SCRATCH: _from_scratch}
)
