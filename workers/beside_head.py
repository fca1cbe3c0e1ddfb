"""Makes the candidate of a control tag that a fitted head answers: LoRA on the towers that read the contents.

The head is then fitted on the features of base model and adapter, side by side. What decides is the whole
procedure (train, then fit), cross-validated against what answers now, so every annotated task is learned from.
What answers now is the head alone, or the head with the live adapter. A live adapter has learned from old tasks;
then only new ones can tell. Several ways to train are tried. No fold is judged with the way that was chosen on it.

docs/decisions/0023 has the reasons and figures.
"""

import logging
import math
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
from peft import PeftModel

from lorabel.contracts import Contract, Input, LabelScores
from lorabel.families.base import Family
from lorabel.families.encoders.heads.fit import Example, fit_head
from lorabel.families.encoders.heads.head_answers import answer_with_head
from lorabel.families.encoders.heads.linear_head import LinearHead
from lorabel.feature_contracts import Features
from lorabel.problems.base import Problem
from lorabel.settings import Settings
from workers import evaluate, lora, peft_kinds
from workers.acceptance import Judgement, judge_beside_head, log_losses, tested_tasks
from workers.attempt import Attempt, Candidate, TrainingContext, save_adapter
from workers.examples import PreparedExample, TrainingExample, TrainingPlan
from workers.folds import Fold, choosing_folds, clusters, make_folds, near_duplicates
from workers.reading import Limits, Reading, read
from workers.services import Services

log = logging.getLogger(__name__)

# The rates that are tried, as shares of LEARNING_RATE.
SMALL_STEPS, LARGE_STEPS = 0.1, 2.0
# Steps and examples per step of a training with up to EXAMPLES examples. With more, steps grow in proportion;
# docs/decisions/0031 has figures.
STEPS, BATCH, EXAMPLES = 40, 32, 160
# With a lower cross-validated log-loss of what answers now, the examples are too much alike to tell more.
EASY = 0.1
# Where all contents of a batch have the same features, the contrastive loss is the logarithm of how many others
# there are. A training whose loss ends so near to that is stuck: it has learned nothing.
STUCK = 0.02


@dataclass(frozen=True)
class _Examples:
    """The examples of a run, with what the base model computes of them.

    Args:
        features: with the live adapter's beside the base model's, if there is one.
        base_features: the base model's alone.
        zero_shot: the base model's own answers.
        tested: indices of the examples that no live adapter has learned from.
    """

    prepared: Sequence[PreparedExample]
    features: Sequence[Features]
    base_features: Sequence[Features]
    zero_shot: Sequence[LabelScores]
    tested: Sequence[int]


def recipe_for(family: Family, question: Input, recipe: lora.Recipe, settings: Settings) -> lora.Recipe:
    """The recipe of a run for a family: for a head, if heads answer such questions and LORA_TOWERS is `auto`."""
    kind = settings.lora_kind_of(family.name)
    recipe = replace(
        recipe,
        learning_rate=recipe.learning_rate * family.learning_rate_factor * peft_kinds.rate_factor(kind),
        batch=min(recipe.batch, family.most_train_batch or recipe.batch),
        kind=kind,
    )
    if settings.lora_towers != "auto" or not family.content_layers(question):
        return recipe
    return replace(recipe, is_for_head=True, steps=min(STEPS, recipe.steps), batch=min(BATCH, recipe.batch))


def make_candidate_beside_head(
    services: Services,
    problem: Problem,
    family: Family,
    plan: TrainingPlan,
    context: TrainingContext,
    recipe: lora.Recipe,
    folder: Path,
    on_step: Callable[[lora.Progress], None],
) -> Attempt:
    """Train on the plan's examples that can be read, and save the adapter into `folder` if it is accepted."""
    settings = services.settings
    training_examples = [*plan.train, *plan.held_out]
    if len(training_examples) < settings.lora_min_tasks and context.needs_new:
        return Attempt(
            None,
            plan.skipped,
            decision=f"the head answers; LoRA begins at {settings.lora_min_tasks} tasks (LORA_MIN_TASKS), "
            f"{len(training_examples)} are annotated",
        )
    new, old = _read(services, family, training_examples, context)
    attempt = Attempt(None, {**plan.skipped, **new.unreadable, **old.unreadable}, new.left)
    if not new.prepared and context.needs_new:
        return attempt
    starts = _starts(context.live, recipe)
    procedure = _Procedure(services, problem, family, context)
    examples = procedure.describe([*new.prepared, *old.prepared], recipe)
    classes = [example.training_example.label_class for example in examples.prepared]
    too_little = _too_little(len(examples.tested), len(set(classes)))
    is_enough = context.live is None or len(examples.tested) >= settings.evaluate_min_tasks
    if len(set(classes)) < 2 or not is_enough:
        return replace(attempt, decision=too_little)
    folds = procedure.folds(examples, classes)
    if len(folds) < 2:
        return replace(attempt, decision=too_little)
    steps = _all_steps(recipe, len(starts), folds, len(examples.prepared))
    procedure = replace(procedure, max_step_s=settings.lora_max_seconds / steps, on_step=_counted(on_step, steps))
    judgement, start = procedure.choose(examples, folds, starts)
    attempt = replace(attempt, judgement=judgement)
    if not judgement.is_accepted:
        return attempt
    features: list[Features] = []

    def keep(model: PeftModel) -> None:
        save_adapter(model, family, folder)
        features.extend(evaluate.features(family, examples.prepared, settings.max_batch))

    loss = procedure.train(examples.prepared, start, keep)
    learned = [example.training_example for example in examples.prepared]
    candidate = Candidate(
        judgement,
        None,
        family.name,
        family.source,
        loss,
        [annotation_id for example in learned for annotation_id in example.annotation_ids],
        frozenset(example.task_id for example in learned),
        is_beside_head=True,
        features=list(zip(learned, features, strict=True)),
    )
    return replace(attempt, candidate=candidate)


def _starts(live: Path | None, recipe: lora.Recipe) -> "list[_Start]":
    """The ways to train that are tried. A strong base model needs small steps, a weak one large ones."""
    small, large = (
        replace(recipe, learning_rate=share * recipe.learning_rate) for share in (SMALL_STEPS, LARGE_STEPS)
    )
    change = lora.change_of_kind(live, recipe)
    anew = [_Start(f"begun anew at rate {way.learning_rate:g}{change}", None, way) for way in (small, large)]
    return [_Start("continued from live", live, small), *anew] if lora.continues(live, recipe) else anew


def _read(
    services: Services, family: Family, examples: Sequence[TrainingExample], context: TrainingContext
) -> tuple[Reading, Reading]:
    """Read the new and the old examples; each kind gets its share of the limits."""
    limits = Limits.of(services.settings)

    def read_kind(is_new: bool) -> Reading:
        kind = [example for example in examples if example.is_new == is_new]
        share = limits.share(len(kind) / max(1, len(examples)))
        return read(kind, family, context.resolve, services.fetcher.fetch, list, share)

    return read_kind(True), read_kind(False)


def _too_little(tested: int, classes: int) -> str:
    if classes < 2:
        return "the head answers; all annotations are of one class, so there is nothing to tell apart"
    return f"the head answers; {tested} tasks are too few to tell whether LoRA is better"


@dataclass(frozen=True)
class _Start:
    """A way to train.

    Args:
        name: for decisions.
        adapter: the folder of the adapter to go on from; None to begin anew.
    """

    name: str
    adapter: Path | None
    recipe: lora.Recipe


@dataclass(frozen=True)
class _Procedure:
    """To train LoRA on some examples, and then to fit the head on their features.

    Args:
        max_step_s: a training takes at most so many seconds for each of its steps, on average.
    """

    services: Services
    problem: Problem
    family: Family
    context: TrainingContext
    max_step_s: float = math.inf
    on_step: Callable[[lora.Progress], None] = lambda _: None

    def describe(self, prepared: Sequence[PreparedExample], recipe: lora.Recipe) -> _Examples:
        """Compute what the base model says about the examples, and what answers now."""
        question, batch = prepared[0].training_example.question, self.services.settings.max_batch
        with lora.adapted(self.family, question, self.context.live, recipe) as model:
            with model.disable_adapter():
                zero_shot = evaluate.predict(self.family, prepared, batch)
                features = base_features = evaluate.features(self.family, prepared, batch)
            has_live = self.context.live is not None
            if has_live:
                with lora.with_live(model, self.context.live):
                    features = evaluate.features(self.family, prepared, batch)
        tested = [
            index for index, example in enumerate(prepared) if example.training_example.is_new or not has_live
        ]
        return _Examples(prepared, features, base_features, cast(list[LabelScores], zero_shot), tested)

    def folds(self, examples: _Examples, classes: Sequence[Hashable]) -> list[Fold]:
        """Divide the examples so that what answers now finds the tested ones hard enough for a difference to show.

        Args:
            classes: of each example.
        """
        matrix = np.stack([example.features.mean(0) for example in to_fit(examples.prepared, examples.features)])
        folds = make_folds(near_duplicates(matrix, classes), classes, examples.tested)
        targets = [examples.prepared[index].target for fold in folds for index in fold.tested]
        now = self._outputs(examples, folds, [examples.features] * len(folds))
        if log_losses(self.problem, targets, now).mean() >= EASY:
            return folds
        return make_folds(clusters(matrix, classes), classes, examples.tested)

    def choose(
        self, examples: _Examples, folds: Sequence[Fold], starts: "Sequence[_Start]"
    ) -> "tuple[Judgement, _Start]":
        """Choose a start, and cross-validate the choice and the training against what answers now.

        What each fold is tested with was chosen on another fold, see `workers.folds.choosing_folds`. Starts that
        are worse on the first fold by more than a standard error are not tried again; if all are, the choice ends.
        """
        kept = list(starts)
        choosing = choosing_folds(len(folds))
        tried: dict[int, dict[str, list[Features]]] = {}
        losses: dict[int, dict[str, float]] = {}
        for number in sorted(set(choosing)):
            fold = folds[number]
            tried[number] = {start.name: self._adapted_features(examples, fold, start) for start in kept}
            judgements = {
                name: self._judge(examples, [fold], [features], name) for name, features in tried[number].items()
            }
            losses[number] = {
                name: judgement.candidate.values["log_loss"] for name, judgement in judgements.items()
            }
            if number == 0:
                best = _best(kept, [losses[number]])
                kept = [start for start in kept if not judgements[start.name].is_surely_worse]
                if not kept:
                    return judgements[best.name], best
        features = []
        for number, fold in enumerate(folds):
            start = _best(kept, [losses[choosing[number]]])
            features.append(
                tried[number][start.name] if number in tried else self._adapted_features(examples, fold, start)
            )
        best = _best(kept, list(losses.values()))
        return self._judge(examples, folds, features, best.name), best

    def train(self, prepared: Sequence[PreparedExample], start: _Start, use: Callable[[PeftModel], None]) -> float:
        """Train on the examples, and call `use` with the model. Returns the loss.

        A training that begins anew and gets stuck is begun once more with another seed, if at least half of its
        time is left.
        """
        question = prepared[0].training_example.question
        steps = steps_for(len(prepared), start.recipe)
        end = time.monotonic() + steps * self.max_step_s
        seeds = [start.recipe.seed] if start.adapter else [start.recipe.seed, start.recipe.seed + 1]
        for seed in seeds:
            seconds = end - time.monotonic()
            recipe = replace(start.recipe, seed=seed, steps=steps, max_seconds=seconds)
            with lora.adapted(self.family, question, start.adapter, recipe) as model:
                # In this process alone: the loss compares the examples of a batch with each other, so processes
                # that share a batch would learn from fewer pairs.
                loss = lora.fine_tune(self.family, model, prepared, recipe, self.on_step)
                has_time = seed != seeds[-1] and end - time.monotonic() >= seconds / 2
                if has_time and is_stuck(loss, min(recipe.batch, len(prepared))):
                    continue
                use(model)
                break
        return loss

    def _adapted_features(self, examples: _Examples, fold: Fold, start: _Start) -> list[Features]:
        """The features of all examples with an adapter that was trained on those that the fold learns from."""
        features: list[Features] = []

        def compute(_: PeftModel) -> None:
            features.extend(evaluate.features(self.family, examples.prepared, self.services.settings.max_batch))

        self.train([examples.prepared[index] for index in fold.train], start, compute)
        return features

    def _judge(
        self, examples: _Examples, folds: Sequence[Fold], features: Sequence[Sequence[Features]], start: str
    ) -> Judgement:
        """Compare the procedure with what answers now, on what these folds test.

        Args:
            features: for each fold, those of all examples.
            start: how the training begins, for the decision.
        """
        tested = [examples.prepared[index] for fold in folds for index in fold.tested]
        outputs = self._outputs(examples, folds, features)
        now = self._outputs(examples, folds, [examples.features] * len(folds))
        head_alone = None
        if self.context.live is not None:
            head_alone = self._outputs(examples, folds, [examples.base_features] * len(folds))
        targets = [example.target for example in tested]
        judgement = judge_beside_head(self.problem, targets, outputs, now, head_alone)
        decision = f"{judgement.decision}; {start}"
        return replace(judgement, decision=decision, tested=tested_tasks(tested, outputs, now))

    def _outputs(
        self, examples: _Examples, folds: Sequence[Fold], features_by_fold: Sequence[Sequence[Features]]
    ) -> list[Contract]:
        """The answers to the tested examples, fold after fold, each by a head that was fitted without its fold."""
        outputs: list[Contract] = []
        for fold, features in zip(folds, features_by_fold, strict=True):
            to_learn = to_fit(examples.prepared, features)
            head = fit_head([to_learn[index] for index in fold.train], features[0].space)
            outputs += [self._answer(head, to_learn[index], examples.zero_shot[index]) for index in fold.tested]
        return outputs

    def _answer(self, head: LinearHead | None, example: Example, zero_shot: LabelScores) -> Contract:
        """The answer of the head; without a head that of the base model, as it is shown."""
        if head is None:
            answer: Contract = self.problem.calibrated(zero_shot, self.problem.default_temperature(zero_shot))
            return answer
        return answer_with_head(head, example.question, example.features, example.logits, zero_shot.temperature)


def _best(starts: Sequence[_Start], losses: Sequence[dict[str, float]]) -> _Start:
    """The start with the lowest mean of the log-losses on some folds."""
    return min(starts, key=lambda start: sum(of_fold[start.name] for of_fold in losses))


def to_fit(prepared: Sequence[PreparedExample], features: Sequence[Features]) -> list[Example]:
    """The examples as `fit_head` takes them."""
    return [
        Example.of(example.training_example.question, example_features, example.target)
        for example, example_features in zip(prepared, features, strict=True)
    ]


def steps_for(examples: int, recipe: lora.Recipe) -> int:
    """The steps of a training: those of the recipe, and in proportion more with more than EXAMPLES examples."""
    return math.ceil(recipe.steps * max(1.0, examples / EXAMPLES))


def is_stuck(loss: float, batch: int) -> bool:
    """Whether the contrastive loss of a training says that all contents of a batch have the same features.

    Before and while small steps are learned from, it can be higher.
    """
    return abs(loss - math.log(max(1, batch - 1))) < STUCK


def _all_steps(recipe: lora.Recipe, starts: int, folds: Sequence[Fold], examples: int) -> int:
    """The steps of all trainings of a run that is accepted."""
    choosing = set(choosing_folds(len(folds)))
    of_folds = [
        (starts if number in choosing else 1) * steps_for(len(fold.train), recipe)
        for number, fold in enumerate(folds)
    ]
    return sum(of_folds) + steps_for(examples, recipe)


def _counted(on_step: Callable[[lora.Progress], None], steps: int) -> Callable[[lora.Progress], None]:
    """A callback that reports the steps of several trainings as those of one.

    Args:
        steps: of all trainings, as far as none has to begin once more.
    """
    steps_before, steps_of_training = 0, 0

    def report(progress: lora.Progress) -> None:
        nonlocal steps_before, steps_of_training
        if progress.step == 1:
            steps_before, steps_of_training = steps_before + steps_of_training, progress.steps
        step_s = progress.seconds_left / max(1, progress.steps - progress.step)
        later = max(0, steps - steps_before - progress.steps)
        seconds_left = progress.seconds_left + later * step_s
        total = max(steps, steps_before + progress.steps)
        on_step(lora.Progress(steps_before + progress.step, total, progress.loss, seconds_left))

    return report
