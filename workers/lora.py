"""The training loop: LoRA, or another kind of adapter, by PEFT on a family's base model.

It starts from the live adapter if there is one of this kind.
"""

import math
import re
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DataLoaderConfiguration
from peft import AdaLoraConfig, PeftModel, get_peft_model, load_peft_weights, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from lorabel.adapter_kinds import LORA
from lorabel.contracts import Input
from lorabel.errors import LorabelError
from lorabel.families.base import Family
from lorabel.settings import Settings
from workers import peft_kinds
from workers.examples import PreparedExample

LIVE = "live"
PREFIX = "base_model.model."
CANDIDATE = "default"  # PEFT saves the adapter of this name in the folder itself, where other programs look
WARMUP_STEPS = 5
WEIGHT_DECAY = 0.01
SMOOTHING = 0.8
LARGEST_WEIGHT = 5.0
LEARNED_LOSS = 0.01


@dataclass(frozen=True)
class Recipe:
    """How a run trains.

    Args:
        rank: of a new adapter; a run that starts from the live adapter keeps that adapter's rank.
        steps: at most.
        batch: examples per step.
        patience: training stops after so many steps in which the loss did not fall by 1%.
        precision: `float32` or `bfloat16`, of the forward pass.
        is_for_head: whether LoRA goes on the towers of the contents, and learns features for a fitted head. Else
            it goes on `Family.trained_layers`, and learns the answers.
        kind: of the adapter, one of `lorabel.adapter_kinds.KINDS`.
        max_seconds: training ends after so many seconds; None for no limit.
        noise_multiplier: of a private training (`workers/private_training.py`), else None. `sample_rate` is the
            probability with which each example is in a step of it.
    """

    rank: int
    learning_rate: float
    steps: int
    batch: int
    patience: int
    seed: int
    precision: str
    is_for_head: bool = False
    max_seconds: float | None = None
    kind: str = LORA
    noise_multiplier: float | None = None
    sample_rate: float = 0.0

    @property
    def limit_s(self) -> float:
        """`max_seconds`, or infinity. The field itself is stored as JSON, which has no infinity."""
        return math.inf if self.max_seconds is None else self.max_seconds

    @classmethod
    def from_settings(cls, settings: Settings, precision: str) -> "Recipe":
        return cls(
            settings.lora_rank,
            settings.learning_rate,
            settings.train_steps,
            settings.train_batch,
            settings.train_patience,
            settings.seed,
            precision,
            kind=settings.lora_kind,
        )


@dataclass(frozen=True)
class Progress:
    """How far a run is after a step; `loss` is smoothed."""

    step: int
    steps: int
    loss: float
    seconds_left: float


@dataclass(frozen=True)
class Batch:
    """The examples of a step, and the weight of each example's loss."""

    inputs: Sequence[Any]
    targets: Sequence[Any]
    weights: Sequence[float]


@contextmanager
def adapted(family: Family, question: Input, live: Path | None, recipe: Recipe) -> Iterator[PeftModel]:
    """The base model with a candidate adapter, and with the live adapter beside it if there is one of its kind.

    The candidate is on live's layers and on those that the recipe trains for such a question. It starts with the
    weights and the rank of live; if live is of another kind, it begins anew. At the end of the block the base
    model is as before, also after an error at any point: the worker keeps it for the next run.

    Args:
        question: one of the examples'.
        live: the live adapter's folder.
    """
    torch.manual_seed(recipe.seed)
    weights = {} if live is None else load_peft_weights(live, device="cpu")
    layers = only({*new_layers(family, question, recipe), *peft_kinds.adapted_layers(weights)})
    start = live if continues(live, recipe) else None
    if start is None:
        config = peft_kinds.new_config(recipe.kind, recipe.rank, layers, recipe.steps)
    else:
        config = peft_kinds.continued_config(start, layers, recipe.steps)
    try:
        with peft_kinds.quiet_about_ranks():
            model = get_peft_model(family.module, config)
        model.peft_config[CANDIDATE].base_model_name_or_path = family.source
        if start is not None:
            with peft_kinds.quiet_about_ranks():
                model.load_adapter(start, LIVE)
                set_peft_model_state_dict(model, weights, adapter_name=CANDIDATE)
        yield model
    finally:
        _remove_adapters(family.module)


def continues(live: Path | None, recipe: Recipe) -> bool:
    """Whether a training goes on from the live adapter: there is one, and it is of the recipe's kind."""
    return live is not None and peft_kinds.kind_of_folder(live) == recipe.kind


def change_of_kind(live: Path | None, recipe: Recipe) -> str:
    """For decisions: that a training has begun anew, since live is of another kind. Else empty."""
    if live is None or continues(live, recipe):
        return ""
    return f"; begun anew as {recipe.kind}, since live is {peft_kinds.kind_of_folder(live)}"


def new_layers(family: Family, question: Input, recipe: Recipe) -> list[str]:
    """The layers that a recipe puts a new adapter on."""
    return family.content_layers(question) if recipe.is_for_head else family.trained_layers(question)


def save(model: PeftModel, folder: Path) -> None:
    """Write the candidate in PEFT's own format."""
    with peft_kinds.quiet_about_ranks():
        # `save_embedding_layers` is off because it would ask a hub about the base model.
        model.save_pretrained(folder, selected_adapters=[CANDIDATE], save_embedding_layers=False)


def load(model: PeftModel, folder: Path, device: torch.device) -> None:
    """Read the candidate's weights from a folder that `save` wrote."""
    config = model.peft_config[CANDIDATE]
    if isinstance(config, AdaLoraConfig):
        config.rank_pattern = AdaLoraConfig.from_pretrained(folder).rank_pattern
    with peft_kinds.quiet_about_ranks():
        weights = load_peft_weights(folder, device=str(device))
        set_peft_model_state_dict(model, weights, adapter_name=CANDIDATE)


def _remove_adapters(module: nn.Module) -> None:
    """Put the base model's own layers back, and freeze them.

    PEFT's `unload` needs a PeftModel, and there is none if `get_peft_model` has failed after some layers.
    """
    adapted_layers = [(name, layer) for name, layer in module.named_modules() if isinstance(layer, BaseTunerLayer)]
    for name, layer in adapted_layers:
        _put(module, name, layer.get_base_layer())
    if hasattr(module, "peft_config"):
        del module.peft_config
    module.requires_grad_(False)


def _put(module: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(module.get_submodule(parent), child, layer)


def only(layers: Iterable[str]) -> str:
    """PEFT's `target_modules` for exactly these layers.

    Given a list, PEFT also takes layers whose names end with a listed name: `visual.transformer...` for
    `transformer...`. So this is a regular expression, which has to match the whole name.
    """
    return "|".join(re.escape(name) for name in sorted(layers))


@contextmanager
def with_live(model: PeftModel, live: Path | None) -> Iterator[None]:
    """In the block the live adapter is active, or no adapter if there is no live one.

    Args:
        live: the folder of the live adapter that `adapted` was called with.
    """
    if live is None:
        with model.disable_adapter():
            yield
    elif LIVE in model.peft_config:
        model.set_adapter(LIVE)
        try:
            yield
        finally:
            model.set_adapter(CANDIDATE)
    else:
        with _exchanged(model.get_base_model(), live):
            yield


@contextmanager
def _exchanged(module: nn.Module, live: Path) -> Iterator[None]:
    """In the block live is in the candidate's place: PEFT keeps no two kinds of adapters in one model."""
    candidate = {name: layer for name, layer in module.named_modules() if isinstance(layer, BaseTunerLayer)}
    config = module.peft_config
    _remove_adapters(module)
    try:
        with peft_kinds.quiet_about_ranks():
            PeftModel.from_pretrained(module, live)
        yield
    finally:
        _remove_adapters(module)
        for name, layer in candidate.items():
            _put(module, name, layer)
        module.peft_config = config


def precompute(
    family: Family, model: PeftModel, examples: Sequence[PreparedExample], generator: torch.Generator | None
) -> list[PreparedExample]:
    """The examples, with everything computed that is the same for candidate and live.

    Args:
        generator: see `Family.precompute`; None for examples that are only tested.
    """
    trained = model.base_model.targeted_module_names
    inputs = family.precompute([example.model_input for example in examples], trained, generator)
    return [
        replace(example, model_input=model_input) for example, model_input in zip(examples, inputs, strict=True)
    ]


def fine_tune(
    family: Family,
    model: PeftModel,
    examples: Sequence[PreparedExample],
    recipe: Recipe,
    on_step: Callable[[Progress], None],
) -> float:
    """Train the candidate. Stops early when the smoothed loss no longer falls, or is as low as LEARNED_LOSS.

    If the time of the recipe ends before its steps, the learning rate falls with the time.

    Args:
        on_step: called after each step.

    Returns:
        The smoothed loss.

    Raises:
        LorabelError: the loss is not finite.
    """
    accelerator = _accelerator(family, recipe)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=recipe.learning_rate, weight_decay=WEIGHT_DECAY)
    ranks = peft_kinds.RankAllocation(model, CANDIDATE)
    loss, best, best_step, started, elapsed_s = 0.0, math.inf, 0, time.monotonic(), 0.0
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, recipe, elapsed_s))
    optimizer, schedule = accelerator.prepare(optimizer, schedule)
    batches = _batches(family, examples, recipe)
    for step in range(1, recipe.steps + 1):
        step_loss = _step(family, accelerator, next(batches), optimizer, weights, recipe, ranks)
        ranks.step(step, weights)
        optimizer.zero_grad()
        # The processes of a run must agree, or one would wait for another that has ended.
        elapsed_s = float(
            accelerator.reduce(torch.tensor(time.monotonic() - started, device=family.device), "mean")
        )
        if not math.isfinite(step_loss):
            raise LorabelError(
                f"the loss is {step_loss} after {step - 1} steps; lower LEARNING_RATE ({recipe.learning_rate:g}), "
                "or set PRECISION=float32"
            )
        schedule.step()
        loss = step_loss if step == 1 else SMOOTHING * loss + (1 - SMOOTHING) * step_loss
        seconds_left = min(elapsed_s / step * (recipe.steps - step), max(0.0, recipe.limit_s - elapsed_s))
        on_step(Progress(step, recipe.steps, loss, seconds_left))
        if loss < 0.99 * best:
            best, best_step = loss, step
        if loss < LEARNED_LOSS or step - best_step >= recipe.patience or elapsed_s >= recipe.limit_s:
            break
    accelerator.end_training()
    return loss


def _accelerator(family: Family, recipe: Recipe) -> Accelerator:
    return Accelerator(
        cpu=family.device.type == "cpu",
        mixed_precision="bf16" if recipe.precision == "bfloat16" else "no",
        # The processes of `workers/launch.py` share each batch, so one step of all of them is one schedule step.
        dataloader_config=DataLoaderConfiguration(split_batches=True),
    )


def _step(
    family: Family,
    accelerator: Accelerator,
    batch: Batch,
    optimizer: Any,
    weights: Any,
    recipe: Recipe,
    ranks: peft_kinds.RankAllocation,
) -> float:
    """Make one step, and leave its gradients. Each process computes its share of the batch's examples.

    Returns:
        The loss of the whole batch, the same in every process.
    """
    share = slice(accelerator.process_index, None, accelerator.num_processes)
    example_weights = torch.tensor(batch.weights[share], device=family.device)
    inputs, targets = batch.inputs[share], batch.targets[share]
    with accelerator.autocast():
        if recipe.is_for_head:
            with family.while_training():
                losses = family.contrastive_losses(inputs, targets)
        else:
            losses = family.loss(inputs, targets)
    loss = (losses * example_weights).sum() * accelerator.num_processes / len(batch.targets)
    accelerator.backward(loss + ranks.penalty())
    if accelerator.num_processes > 1:
        for weight in weights:
            weight.grad = accelerator.reduce(weight.grad, "mean")
    accelerator.clip_grad_norm_(weights, 1.0)
    optimizer.step()
    return float(accelerator.reduce(loss.detach(), "mean"))


def _batches(family: Family, examples: Sequence[PreparedExample], recipe: Recipe) -> Iterator[Batch]:
    """Endless batches of augmented examples. Every example comes once before any comes again."""
    class_weights = balance([example.training_example.label_class for example in examples])
    generator = torch.Generator().manual_seed(recipe.seed)
    waiting: list[int] = []
    while True:
        while len(waiting) < min(recipe.batch, len(examples)):
            waiting += torch.randperm(len(examples), generator=generator).tolist()
        indices, waiting = waiting[: recipe.batch], waiting[recipe.batch :]
        chosen = [examples[index] for index in indices]
        inputs, targets = family.augment(
            [example.model_input for example in chosen], [example.target for example in chosen], generator
        )
        yield Batch(inputs, targets, [class_weights[index] for index in indices])


def balance(classes: Sequence[Hashable]) -> list[float]:
    """A weight for each example: every class has the same total weight, and the mean of all weights is 1.

    Before they are scaled to that mean, weights are limited to LARGEST_WEIGHT, because a class of a single example
    is soon learned by heart.
    """
    counts = Counter(classes)
    raw = [min(LARGEST_WEIGHT, len(classes) / (len(counts) * counts[label_class])) for label_class in classes]
    return [weight * len(raw) / sum(raw) for weight in raw]


def rate(step: int, recipe: Recipe, elapsed_s: float) -> float:
    """The factor of the learning rate: a warm-up of WARMUP_STEPS, then linear to 0 at the last step or second."""
    done = min(1.0, max(step / recipe.steps, elapsed_s / recipe.limit_s))
    return min(1.0, (step + 1) / WARMUP_STEPS) * (1 - done)
