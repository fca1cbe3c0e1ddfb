"""Makes the candidate of a control tag that a fitted head answers: LoRA on the towers that read the contents.

The head is then fitted on the features of base model and adapter, side by side. What decides is the whole procedure
(train, then fit), cross-validated against what answers now, so every annotated task is learned from. What answers
now is the head alone, or the head with the live adapter. A live adapter has learned from old tasks; then only new
ones can tell, and two procedures are tried: to go on from the live adapter, and to begin anew.

docs/decisions/0023 has the reasons and figures.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from lorabel.contracts import Input, LabelScores, LabelsInput
from lorabel.families.base import Family
from lorabel.families.encoders.heads.fit import Example, fit_head
from lorabel.families.encoders.heads.head_answers import answer_with_head
from lorabel.feature_contracts import Features
from lorabel.problems.base import Problem
from lorabel.settings import Settings
from workers import evaluate, launch, lora
from workers.acceptance import judge_beside_head
from workers.attempt import Attempt, Candidate, TrainingContext, save_adapter
from workers.examples import PreparedExample, TrainingExample, TrainingPlan
from workers.folds import FOLDS, Fold, make_folds, near_duplicates
from workers.reading import Limits, Reading, read
from workers.services import Services

log = logging.getLogger(__name__)

# The name of a procedure that starts from no adapter, in decisions.
ANEW, CONTINUED = "begun anew", "continued from live"
# Steps and examples per step of a training. More were no better; docs/decisions/0023 has figures.
STEPS, BATCH = 30, 64


@dataclass(frozen=True)
class _Examples:
    """The examples of a run, with what the base model computes of them.

    Args:
        features: with the live adapter's beside the base model's, if there is one.
        zero_shot: the base model's own answers.
        tested: indices of the examples that no live adapter has learned from.
    """

    prepared: Sequence[PreparedExample]
    features: Sequence[Features]
    zero_shot: Sequence[LabelScores]
    tested: Sequence[int]

    @property
    def targets(self) -> list[Any]:
        return [self.prepared[index].target for index in self.tested]


def recipe_for(family: Family, question: Input, recipe: lora.Recipe, settings: Settings) -> lora.Recipe:
    """The recipe of a run: for a head if a fitted head answers such questions, and LORA_TOWERS does not forbid it."""
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
    trainings = 1 + FOLDS * (1 if context.live is None else 2)
    recipe = replace(recipe, max_seconds=settings.lora_max_seconds / trainings)
    procedure = _Procedure(services, problem, family, context, recipe, _counted(on_step, trainings))
    examples = procedure.describe([*new.prepared, *old.prepared])
    matrix = np.stack([_fit_example(*pair).features.mean(0) for pair in zip(examples.prepared, examples.features)])
    classes = [example.training_example.label_class for example in examples.prepared]
    folds = make_folds(near_duplicates(matrix), classes, examples.tested)
    if len(set(classes)) < 2 or len(folds) < 2:
        return replace(attempt, decision=_too_little(len(examples.tested), len(set(classes))))
    judgement, start = procedure.judge(examples, folds)
    attempt = replace(attempt, judgement=judgement)
    if not judgement.is_accepted:
        return attempt
    loss = procedure.train(examples.prepared, start, lambda model: save_adapter(model, folder))
    candidate = Candidate(
        judgement,
        None,
        family.name,
        family.source,
        loss,
        [
            annotation_id
            for example in examples.prepared
            for annotation_id in example.training_example.annotation_ids
        ],
        frozenset(example.training_example.task_id for example in examples.prepared),
        is_beside_head=True,
    )
    return replace(attempt, candidate=candidate)


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
class _Procedure:
    """To train LoRA on some examples and to fit the head on others' features as well as on theirs."""

    services: Services
    problem: Problem
    family: Family
    context: TrainingContext
    recipe: lora.Recipe
    on_step: Callable[[lora.Progress], None]

    def describe(self, prepared: Sequence[PreparedExample]) -> _Examples:
        """Compute what the base model says about the examples, and what answers now."""
        question, batch = prepared[0].training_example.question, self.services.settings.max_batch
        with lora.adapted(self.family, question, self.context.live, self.recipe) as model:
            with model.disable_adapter():
                zero_shot = evaluate.predict(self.family, prepared, batch)
            with lora.with_live(model):
                features = evaluate.features(self.family, prepared, batch)
        has_live = self.context.live is not None
        tested = [
            index for index, example in enumerate(prepared) if example.training_example.is_new or not has_live
        ]
        return _Examples(prepared, features, cast(list[LabelScores], zero_shot), tested)

    def judge(self, examples: _Examples, folds: Sequence[Fold]) -> "tuple[Any, Path | None]":
        """Cross-validate the procedures and choose the best. Returns the judgement and where it starts."""
        now = self._outputs(examples, folds, [examples.features] * len(folds))
        starts = {ANEW: None} if self.context.live is None else {ANEW: None, CONTINUED: self.context.live}
        name = "the head" if self.context.live is None else "live"
        judgements = []
        for procedure, start in starts.items():
            features = [self._adapted_features(examples, fold, start) for fold in folds]
            outputs = self._outputs(examples, folds, features)
            judgement = judge_beside_head(self.problem, examples.targets, outputs, now, name)
            if len(starts) > 1:
                judgement = replace(judgement, decision=f"{procedure}: {judgement.decision}")
            judgements.append((judgement, start))
        return min(judgements, key=lambda pair: (not pair[0].is_accepted, pair[0].candidate.values["log_loss"]))

    def train(
        self,
        prepared: Sequence[PreparedExample],
        start: Path | None,
        use: "Callable[[Any], None]",
    ) -> float:
        """Train on the examples, and call `use` with the model. Returns the loss."""
        question = prepared[0].training_example.question
        with lora.adapted(self.family, question, start, self.recipe) as model:
            loss = launch.fine_tune(
                self.services.settings, self.family, model, prepared, self.recipe, self.on_step
            )
            use(model)
        return loss

    def _adapted_features(self, examples: _Examples, fold: Fold, start: Path | None) -> list[Features]:
        """The features of all examples with an adapter that was trained on those that the fold learns from."""
        features: list[Features] = []
        batch = self.services.settings.max_batch
        learned = [examples.prepared[index] for index in fold.train]
        self.train(
            learned, start, lambda _: features.extend(evaluate.features(self.family, examples.prepared, batch))
        )
        return features

    def _outputs(
        self, examples: _Examples, folds: Sequence[Fold], features_by_fold: Sequence[Sequence[Features]]
    ) -> list[LabelScores]:
        """The answers to the tested examples, each by a head that was fitted without its fold."""
        outputs: dict[int, LabelScores] = {}
        for fold, features in zip(folds, features_by_fold, strict=True):
            head = fit_head(
                [_fit_example(examples.prepared[i], features[i]) for i in fold.train], features[0].space
            )
            for index in fold.tested:
                zero_shot = examples.zero_shot[index]
                example = _fit_example(examples.prepared[index], features[index])
                outputs[index] = (
                    self.problem.calibrated(zero_shot, self.problem.default_temperature(zero_shot))
                    if head is None
                    else cast(
                        LabelScores,
                        answer_with_head(
                            head, example.question, example.features, example.logits, zero_shot.temperature
                        ),
                    )
                )
        return [outputs[index] for index in examples.tested]


def _fit_example(example: PreparedExample, features: Features) -> Example:
    question = example.training_example.question
    assert isinstance(question, LabelsInput)
    return Example.of(question, features, example.target)


def _counted(on_step: Callable[[lora.Progress], None], trainings: int) -> Callable[[lora.Progress], None]:
    """A callback that reports the steps of several trainings as those of one."""
    begun = 0

    def report(progress: lora.Progress) -> None:
        nonlocal begun
        begun += progress.step == 1
        steps_before = (begun - 1) * progress.steps
        step_s = progress.seconds_left / max(1, progress.steps - progress.step)
        seconds_left = progress.seconds_left + (trainings - begun) * progress.steps * step_s
        on_step(
            lora.Progress(steps_before + progress.step, trainings * progress.steps, progress.loss, seconds_left)
        )

    return report
