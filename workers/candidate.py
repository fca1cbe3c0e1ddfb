"""One control tag's candidate adapter: read the examples, train, score candidate and live on the same tasks."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from peft import PeftModel

from lorabel.contracts import MediaRef
from lorabel.families.base import Family
from lorabel.problems.base import Problem
from workers import examples, launch, lora
from workers.calibration import Calibration, calibrate
from workers.evaluate import Judgement, answer, folds, judge, measured
from workers.services import Services

log = logging.getLogger(__name__)

Split = tuple[Sequence[examples.Example], Sequence[examples.Example]]


@dataclass(frozen=True)
class Candidate:
    """`skipped`: annotation id -> why it taught nothing. `calibration`: of its scores; None if it has none."""

    judgement: Judgement
    calibration: Calibration | None
    base_model: str
    loss: float
    trained_on: list[int]
    skipped: dict[int, str]


@dataclass(frozen=True)
class TrainingContext:
    """Where a candidate starts: the live adapter's folder if there is one, and how media is reached."""

    live: Path | None
    resolve: Callable[[MediaRef], MediaRef]
    name: str


def make_candidate(
    here: Services,
    problem: Problem,
    family: Family,
    plan: examples.Plan,
    context: TrainingContext,
    recipe: lora.Recipe,
    folder: Path,
    on_step: Callable[[lora.Progress], None],
) -> Candidate | None:
    """Train on the plan and save the adapter into `folder`; None if nothing in it can be read."""
    train, unread = examples.read(plan.train, family, context.resolve, here.fetcher.fetch)
    if not train:
        return None
    most = here.settings.evaluate_max_tasks
    held_out, unread_too = examples.read(plan.held_out[-most:], family, context.resolve, here.fetcher.fetch)
    batch = here.settings.max_batch
    with lora.adapted(family, train[0].lesson.question, context.live, recipe) as model:
        train = lora.precompute(family, model, train, recipe)
        held_out = lora.precompute(family, model, held_out, recipe)
        splits = [] if len(held_out) >= here.settings.evaluate_min_tasks else folds(train)
        crossed = [example for _, tested in splits for example in tested]
        # Nothing is held out and nothing is new: that it has not forgotten is all that can be asked.
        learned = [] if held_out or crossed else train
        with lora.with_live(model):
            of_live = answer(family, [*held_out, *crossed, *learned], batch)
        loss = launch.fine_tune(
            here.settings, family, model, train, recipe, context.name, here.settings.data_dir, on_step
        )
        outputs = answer(family, [*held_out, *learned], batch)
        _save(model, folder)
    exam = [*held_out, *crossed, *learned]
    candidate = measured(problem, exam, [*outputs, *_cross_validated(here, family, splits, context, recipe)])
    live = measured(problem, exam, of_live)
    targets = [example.target for example in held_out]
    return Candidate(
        judge(candidate, live, len(held_out), here.settings),
        calibrate(problem, targets, outputs[: len(held_out)], here.settings.evaluate_min_tasks),
        family.source,
        loss,
        [one for example in train for one in example.lesson.annotation_ids],
        {**plan.skipped, **unread, **unread_too},
    )


def _cross_validated(
    here: Services, family: Family, splits: Sequence[Split], context: TrainingContext, recipe: lora.Recipe
) -> list[Any]:
    """The outputs of the tested examples, split after split, by models that were trained like the candidate."""
    untracked = replace(recipe, tracker="none")
    outputs: list[Any] = []
    for train, tested in splits:
        with lora.adapted(family, tested[0].lesson.question, context.live, recipe) as model:
            if train:
                folder = here.settings.data_dir
                launch.fine_tune(
                    here.settings, family, model, train, untracked, context.name, folder, lambda _: None
                )
            outputs += answer(family, tested, here.settings.max_batch)
    return outputs


def _save(model: PeftModel, folder: Path) -> None:
    """PEFT's own format; `save_embedding_layers` would ask a hub about the base model."""
    model.save_pretrained(folder, selected_adapters=[lora.CANDIDATE], save_embedding_layers=False)
