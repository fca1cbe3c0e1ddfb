"""What digits and tickets lose in other precisions than float32, on tasks that nobody annotated."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from benchmarks import lora_depth, sentences
from benchmarks.annotated_courses import annotations_of, chosen, unchanged
from benchmarks.curve_courses import COURSES
from benchmarks.quantised_loss import FLOAT32, Loss, interval
from lorabel.contracts import LabelScores
from lorabel.database.adapter_folders import AdapterFolders
from lorabel.families.base import Family
from lorabel.families.cache import FEATURES, TEXTS, FeatureCache
from lorabel.families.encoders.heads.fit import Example, fit_head
from lorabel.families.encoders.heads.head_answers import answer_with_head
from lorabel.families.encoders.heads.linear_head import LinearHead
from lorabel.families.served import load_served
from lorabel.feature_contracts import Features
from lorabel.settings import Settings
from model_server.adapters import AdapterBank
from workers import examples, lora
from workers.beside_head import recipe_for, to_fit
from workers.examples import PreparedExample, TrainingExample
from workers.services import Services

DIGITS, TICKETS = "digits", "tickets"
NAMES = (DIGITS, TICKETS)
INT8 = "int8"
ANNOTATED, TICKETS_TESTED, BATCH = 160, 2000, 64
CACHE_BYTES = 256 * 1024 * 1024
ZERO_SHOT, HEAD, ADAPTER = "zero-shot", "head", "head with an adapter"
OF_FLOAT32, OF_BOTH = "head fitted on float32's features", "head fitted on features of both, half and half"
Guesses = NDArray[np.intp]


@dataclass(frozen=True)
class Served:
    """A base model as the model server computes with it, its adapters, and what it has computed."""

    family: Family
    bank: AdapterBank
    cache: FeatureCache

    @classmethod
    def load(cls, family_type: type[Family], settings: Settings, precision: str) -> "Served":
        family = load_served(family_type, settings.model_copy(update={"precision": precision}))
        bank = AdapterBank(family, AdapterFolders(settings.adapters_dir), 10**9)
        return cls(family, bank, FeatureCache({TEXTS: CACHE_BYTES, FEATURES: CACHE_BYTES}))

    def answers(self, asked: Sequence[PreparedExample], adapter: str | None) -> list[Any]:
        """What is answered without a head."""
        return self._predict([each.model_input for each in asked], adapter)

    def features(self, asked: Sequence[PreparedExample], adapter: str | None) -> list[Features]:
        """What heads are fitted on, and answer with."""
        inputs = [self.family.for_features(each.model_input, each.target) for each in asked]
        return self._predict(inputs, adapter)

    def _predict(self, inputs: Sequence[Any], adapter: str | None) -> list[Any]:
        outputs: list[Any] = []
        for start in range(0, len(inputs), BATCH):
            batch = inputs[start : start + BATCH]
            outputs += self.family.predict(batch, [adapter] * len(batch), self.bank, self.cache)
        return outputs


@dataclass(frozen=True)
class Course:
    """A data set whose test tasks are many, with its base model in each precision."""

    subject: lora_depth.Subject
    served: dict[str, Served]
    truth: Guesses


def measure(name: str, seeds: int, precisions: Sequence[str], folder: Path) -> Iterator[Loss]:
    """Yield the loss of each way to answer in each precision, of which the first is float32."""
    data_set = _with_many_tests(lora_depth.DataSet.of(COURSES[name]()))
    models = dict(data_set.models(folder / "model"))
    services = Services.open(Settings(data_dir=folder, models=models, device="cpu", precision=FLOAT32))
    try:
        subject = lora_depth.make_subject(services, data_set)
        served = {name: Served.load(type(subject.family), services.settings, name) for name in precisions}
        truth = np.array([example.target.indices[0] for example in subject.test])
        course = Course(subject, served, truth)
        guesses: dict[tuple[str, str], list[Guesses]] = {}
        for seed in range(seeds):
            for way, of_precisions in _guesses(course, seed).items():
                for precision, of_seed in of_precisions.items():
                    guesses.setdefault((way, precision), []).append(of_seed)
        for (way, precision), of_seeds in guesses.items():
            compared = guesses.get((way, FLOAT32), guesses[HEAD, FLOAT32])
            yield _loss(course, way, precision, of_seeds, compared)
    finally:
        services.close()


def _with_many_tests(data_set: lora_depth.DataSet) -> lora_depth.DataSet:
    """Digits that are not annotated, and as many tickets as it takes to see half a point."""
    if data_set.name == TICKETS:
        written = sentences.write(sentences.TICKETS, 0, held_out=TICKETS_TESTED).held_out
        return replace(data_set, test=chosen(({"text": each.text}, each.label) for each in written))
    keep = len(data_set.tasks) - 2 * ANNOTATED
    tested = [*data_set.test, *data_set.tasks[:keep]]
    left = data_set.tasks[keep:]
    return replace(
        data_set,
        test=tested,
        tasks=left,
        order=lambda seed: list(np.random.default_rng(seed).permutation(len(left))),
    )


def _guesses(course: Course, seed: int) -> dict[str, dict[str, Guesses]]:
    """way -> precision -> what is guessed of each test task, with what one seed annotates."""
    subject, served = course.subject, course.served
    learned = _learned(subject, seed)
    train, _ = examples.prepare(learned, subject.family, unchanged, subject.services.fetcher.fetch)
    adapter = _train(subject, learned, train, seed)
    ways: dict[str, dict[str, Guesses]] = {}
    scores = {name: each.answers(subject.test, None) for name, each in served.items()}
    ways[ZERO_SHOT] = {name: _best(of_name) for name, of_name in scores.items()}
    for way, with_adapter in ((HEAD, None), (ADAPTER, adapter)):
        fitted_on = {name: each.features(train, with_adapter) for name, each in served.items()}
        tested = {
            name: to_fit(subject.test, each.features(subject.test, with_adapter)) for name, each in served.items()
        }
        heads = {name: _fit(train, features) for name, features in fitted_on.items()}
        ways[way] = {name: _answered(heads[name], tested[name], scores[name]) for name in served}
        if with_adapter is None and INT8 in served:
            both = [*fitted_on[FLOAT32][::2], *fitted_on[INT8][1::2]]
            of_both = _fit([*train[::2], *train[1::2]], both)
            ways[OF_FLOAT32] = {INT8: _answered(heads[FLOAT32], tested[INT8], scores[INT8])}
            ways[OF_BOTH] = {INT8: _answered(of_both, tested[INT8], scores[INT8])}
    return ways


def _learned(subject: lora_depth.Subject, seed: int) -> list[TrainingExample]:
    data_set, problem = subject.data_set, subject.bound.bindings[0]
    annotations = annotations_of(data_set.tasks[index] for index in data_set.order(seed)[:ANNOTATED])
    plan = examples.make_plan(problem, subject.bound.config, annotations, subject.services.settings, seed)
    return [*plan.train, *plan.held_out]


def _train(
    subject: lora_depth.Subject,
    learned: Sequence[TrainingExample],
    train: Sequence[PreparedExample],
    seed: int,
) -> str:
    """Train an adapter for the head in float32, without the gate of a run. Returns its name."""
    settings, family, question = subject.services.settings, subject.family, learned[0].question
    recipe = lora.Recipe.from_settings(settings.model_copy(update={"seed": seed}), FLOAT32)
    recipe = recipe_for(family, question, recipe, settings)
    with lora.adapted(family, question, None, recipe) as model:
        lora.fine_tune(family, model, train, recipe, lambda _: None)
        version = f"p1.v{seed + 1}"
        AdapterFolders(settings.adapters_dir).write(version, lambda folder: lora.save(model, folder / "label"))
    return f"{version}/label"


def _fit(train: Sequence[PreparedExample], features: Sequence[Features]) -> LinearHead | None:
    return fit_head(to_fit(train, features), features[0].space)


def _answered(head: LinearHead | None, tested: Sequence[Example], scores: Sequence[LabelScores]) -> Guesses:
    if head is None:
        return _best(scores)
    answers = [
        answer_with_head(head, test.question, test.features, test.logits, score.temperature)
        for test, score in zip(tested, scores, strict=True)
    ]
    return _best(cast(list[LabelScores], answers))


def _best(scores: Sequence[LabelScores]) -> Guesses:
    return np.array([int(np.argmax(score.probabilities)) for score in scores])


def _loss(
    course: Course, way: str, precision: str, guesses: Sequence[Guesses], compared: Sequence[Guesses]
) -> Loss:
    """Of each task the mean over the seeds counts: the tasks are independent, seeds about one task are not."""
    right = np.stack([of_seed == course.truth for of_seed in guesses]).astype(float).mean(0)
    before = np.stack([of_seed == course.truth for of_seed in compared]).astype(float).mean(0)
    changed = float(np.mean([one != other for one, other in zip(guesses, compared, strict=True)]))
    lost = 100 * (before - right)
    name, tested = course.subject.data_set.name, len(course.truth)
    return Loss(name, way, precision, float(right.mean()), *interval(lost), changed, tested)
