"""Makes one control tag's candidate adapter: reads the examples, trains, and scores candidate and live on the same
tasks."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from lorabel.families.base import Family
from lorabel.problems.base import Problem
from workers import evaluate, examples, launch, lora, private_training
from workers.acceptance import judge, tested_tasks
from workers.attempt import Attempt, Candidate, TrainingContext, save_adapter
from workers.beside_head import make_candidate_beside_head
from workers.calibration import calibrate
from workers.privacy_budget import PrivacyError
from workers.reading import Limits, Reading, read
from workers.services import Services
from workers.spoken_words import with_spoken_words

log = logging.getLogger(__name__)

Split = tuple[Sequence[examples.PreparedExample], Sequence[examples.PreparedExample]]


def make_candidate(
    services: Services,
    problem: Problem,
    family: Family,
    plan: examples.TrainingPlan,
    context: TrainingContext,
    recipe: lora.Recipe,
    folder: Path,
    on_step: Callable[[lora.Progress], None],
) -> Attempt:
    """Train on the plan's examples that can be read, and save the adapter into `folder`.

    A control tag that a fitted head answers gets an adapter beside the head, see `workers.beside_head`.
    """
    settings = services.settings
    if recipe.is_for_head:
        return make_candidate_beside_head(services, problem, family, plan, context, recipe, folder, on_step)
    batch = settings.max_batch
    with lora.adapted(family, plan.train[0].question, context.live, recipe) as model:
        new, replayed, tested = _read(services, family, model, plan, context, recipe)
        skipped = {**plan.skipped, **new.unreadable, **replayed.unreadable, **tested.unreadable}
        left = new.left | tested.left
        train, held_out = [*new.prepared, *replayed.prepared], tested.prepared
        if not train or (context.needs_new and context.live is not None and not new.prepared):
            return Attempt(None, skipped, left)
        if settings.dp_epsilon is not None:
            is_partial = plan.is_partial or bool(left | replayed.left)
            try:
                recipe = private_training.prepare(
                    services, context.project_id, problem.from_name, recipe, train, is_partial=is_partial
                )
            except PrivacyError as error:
                return Attempt(None, skipped, left, decision=str(error))
        is_enough = len(held_out) >= settings.evaluate_min_tasks
        splits = [] if is_enough else evaluate.split_for_cross_validation(train)
        cross_validated = [example for _, tested in splits for example in tested]
        # Nothing is held out and nothing is new: the only test left is whether it still knows what it learned.
        learned = [] if held_out or cross_validated else train
        if context.is_against_head:
            # The head answers with the base model.
            with model.disable_adapter():
                live_outputs = [
                    *evaluate.predict_with_head(family, train, held_out, batch),
                    *(
                        output
                        for others, tested_part in splits
                        for output in evaluate.predict_with_head(family, others, tested_part, batch)
                    ),
                    *evaluate.predict_with_head(family, train, learned, batch),
                ]
        else:
            with lora.with_live(model, context.live):
                live_outputs = evaluate.predict(family, [*held_out, *cross_validated, *learned], batch)
        loss = launch.fine_tune(settings, family, model, train, recipe, on_step)
        outputs = evaluate.predict(family, [*held_out, *learned], batch)
        save_adapter(model, family, folder)
    # `learned` is empty where there are splits, so the outputs are in the order of the tested examples.
    tested_examples = [*held_out, *cross_validated, *learned]
    all_outputs = [*outputs, *_cross_validate(services, family, splits, context, recipe)]
    candidate_metrics = evaluate.compute_metrics(problem, tested_examples, all_outputs)
    live_metrics = evaluate.compute_metrics(problem, tested_examples, live_outputs)
    targets = [example.target for example in held_out]
    judgement = judge(candidate_metrics, live_metrics, len(held_out), settings)
    candidate = Candidate(
        replace(
            judgement,
            decision=f"{judgement.decision}{lora.change_of_kind(context.live, recipe)}",
            tested=tested_tasks(tested_examples, all_outputs, live_outputs),
        ),
        calibrate(problem, targets, outputs[: len(held_out)], settings.evaluate_min_tasks),
        family.name,
        family.source,
        loss,
        [annotation_id for example in train for annotation_id in example.training_example.annotation_ids],
        _task_ids([*plan.train, *plan.held_out], {*skipped, *left}),
        rivals_head=family.adapters_rival_heads,
    )
    return Attempt(candidate, skipped, left, judgement=candidate.judgement)


def _read(
    services: Services,
    family: Family,
    model: PeftModel,
    plan: examples.TrainingPlan,
    context: TrainingContext,
    recipe: lora.Recipe,
) -> list[Reading]:
    """Read the new, the replayed and the newest held-out examples. Each kind gets its share of the limits."""
    settings = services.settings
    plan = with_spoken_words(services, plan, context)
    new = [example for example in plan.train if example.is_new]
    replayed = [example for example in plan.train if not example.is_new]
    most_tested = min(settings.evaluate_max_tasks, family.most_tested or settings.evaluate_max_tasks)
    held_out = plan.held_out[-most_tested:]
    generator = torch.Generator().manual_seed(recipe.seed)
    limits, total = Limits.of(settings), len(new) + len(replayed) + len(held_out)

    def read_kind(kind: Sequence[examples.TrainingExample], generator: torch.Generator | None) -> Reading:
        def precompute(prepared: Sequence[examples.PreparedExample]) -> list[examples.PreparedExample]:
            return lora.precompute(family, model, prepared, generator)

        share = limits.share(len(kind) / total)
        return read(kind, family, context.resolve, services.fetcher.fetch, precompute, share)

    # Held-out examples are never augmented.
    return [read_kind(new, generator), read_kind(replayed, generator), read_kind(held_out, None)]


def _task_ids(training_examples: Sequence[examples.TrainingExample], unused: set[int]) -> frozenset[int]:
    """The tasks of the examples that have none of the annotations `unused`."""
    return frozenset(example.task_id for example in training_examples if unused.isdisjoint(example.annotation_ids))


def _cross_validate(
    services: Services, family: Family, splits: Sequence[Split], context: TrainingContext, recipe: lora.Recipe
) -> list[Any]:
    """The outputs of the tested examples, split after split. Each split trains a model like the candidate."""
    settings = services.settings
    outputs: list[Any] = []
    for train, tested in splits:
        with lora.adapted(family, tested[0].training_example.question, context.live, recipe) as model:
            if train:
                launch.fine_tune(settings, family, model, train, recipe, lambda _: None)
            outputs += evaluate.predict(family, tested, settings.max_batch)
    return outputs
