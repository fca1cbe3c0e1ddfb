"""One control tag's candidate adapter: read the examples, train, score candidate and live on the same tasks."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from peft import PeftModel

from lorabel.calibration import Calibration, calibrate
from lorabel.contracts import MediaRef
from lorabel.families import Family
from lorabel.problems import Problem
from workers import examples, launch, lora
from workers.evaluate import Judgement, answer, choose_tasks, judge, score
from workers.services import Services

log = logging.getLogger(__name__)


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
class Ground:
    """Where a candidate starts: the live adapter's folder if there is one, and how media is reached."""

    live: Path | None
    resolve: Callable[[MediaRef], MediaRef]
    name: str


def make_candidate(
    here: Services,
    problem: Problem,
    family: Family,
    plan: examples.Plan,
    ground: Ground,
    recipe: lora.Recipe,
    folder: Path,
    on_step: Callable[[lora.Progress], None],
) -> Candidate | None:
    """Train on the plan and save the adapter into `folder`; None if nothing in it can be read."""
    train, unread = examples.read(plan.train, family, ground.resolve, here.fetcher.fetch)
    if not train:
        return None
    held_out, unread_too = examples.read(
        plan.held_out[-here.settings.evaluate_max_tasks :], family, ground.resolve, here.fetcher.fetch
    )
    tasks = choose_tasks(held_out, train, here.settings)
    with lora.adapted(family, train[0].lesson.question, ground.live, recipe) as model:
        train = lora.precompute(family, model, train, recipe)
        tasks = lora.precompute(family, model, tasks, recipe)
        with lora.with_live(model):
            live = score(problem, family, tasks, here.settings.max_batch)
        loss = launch.fine_tune(
            here.settings, family, model, train, recipe, ground.name, here.settings.data_dir, on_step
        )
        outputs = answer(family, tasks, here.settings.max_batch)
        _save(model, folder)
    targets = [example.target for example in tasks]
    of_held_out = slice(len(held_out))
    return Candidate(
        judge(problem.metrics(targets, outputs), live, len(held_out), here.settings),
        calibrate(problem, targets[of_held_out], outputs[of_held_out], here.settings.evaluate_min_tasks),
        family.source,
        loss,
        [one for example in train for one in example.lesson.annotation_ids],
        {**plan.skipped, **unread, **unread_too},
    )


def _save(model: PeftModel, folder: Path) -> None:
    """PEFT's own format; `save_embedding_layers` would ask a hub about the base model."""
    model.save_pretrained(folder, selected_adapters=[lora.CANDIDATE], save_embedding_layers=False)
