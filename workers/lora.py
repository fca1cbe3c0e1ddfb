"""The training loop: LoRA by PEFT on a family's base model, from the live adapter or from nothing."""

import math
import re
import time
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DataLoaderConfiguration
from peft import (
    LoraConfig,
    PeftConfig,
    PeftModel,
    get_peft_model,
    load_peft_weights,
    set_peft_model_state_dict,
)
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from lorabel.contracts import Input
from lorabel.errors import SettingsError
from lorabel.families.base import Family, NoBatchAdapters
from lorabel.settings import Settings
from workers.examples import Example

LIVE = "live"
ACTIVE = "active"
PREFIX = "base_model.model."
A_WEIGHT = ".lora_A.weight"
CANDIDATE = "default"  # PEFT saves the adapter of this name at the folder's top, where anybody looks for it
WARMUP_STEPS = 5
WEIGHT_DECAY = 0.01
SMOOTHING = 0.8
LARGEST_WEIGHT = 5.0
LEARNED_LOSS = 0.01


@dataclass(frozen=True)
class Recipe:
    rank: int
    learning_rate: float
    steps: int
    batch: int
    patience: int
    seed: int
    precision: str
    tracker: str

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
            settings.tracker,
        )


@dataclass(frozen=True)
class Progress:
    """After a step. `loss` is smoothed."""

    step: int
    steps: int
    loss: float
    seconds_left: float


@dataclass(frozen=True)
class Batch:
    """`weights`: of each example's loss."""

    inputs: Sequence[Any]
    targets: Sequence[Any]
    weights: Sequence[float]


class ActiveAdapter(NoBatchAdapters):
    """The adapter that PEFT has active in this module at this moment, for every row; or none."""

    def __init__(self, module: nn.Module) -> None:
        self._layers = frozenset(
            name
            for name, layer in module.named_modules()
            if isinstance(layer, BaseTunerLayer)
            and not layer.disable_adapters
            and not set(layer.active_adapters).isdisjoint(layer.lora_A)
        )

    def effective_adapter(self, adapter: str | None, layers: Collection[str]) -> str | None:
        return None if self._layers.isdisjoint(layers) else ACTIVE


@contextmanager
def adapted(family: Family, question: Input, live: Path | None, recipe: Recipe) -> Iterator[PeftModel]:
    """The base model with a candidate adapter on it, and with the live one beside it if there is one.

    The candidate begins as live, with live's rank, on live's layers and those that such a question trains.

    The base model is as before at the end of the block.
    """
    torch.manual_seed(recipe.seed)
    weights = {} if live is None else load_peft_weights(live, device="cpu")
    layers = {*family.trained_layers(question), *_adapted_layers(weights)}
    rank = recipe.rank if live is None else PeftConfig.from_pretrained(live).r
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=only(layers))
    model = get_peft_model(family.module, config)
    model.peft_config[CANDIDATE].base_model_name_or_path = family.source
    if live is not None:
        model.load_adapter(live, LIVE)
        set_peft_model_state_dict(model, weights, adapter_name=CANDIDATE)
    try:
        yield model
    finally:
        model.unload()
        family.module.requires_grad_(False)


def only(layers: Iterable[str]) -> str:
    """PEFT's `target_modules` for these layers and no others: it takes a list's names for ends of names, and so
    would adapt `visual.transformer...` with `transformer...`."""
    return "|".join(re.escape(name) for name in sorted(layers))


@contextmanager
def with_live(model: PeftModel) -> Iterator[None]:
    """Inside, the live adapter computes; the base model alone if there is none."""
    if LIVE not in model.peft_config:
        with model.disable_adapter():
            yield
        return
    model.set_adapter(LIVE)
    try:
        yield
    finally:
        model.set_adapter(CANDIDATE)


def precompute(family: Family, model: PeftModel, examples: Sequence[Example], recipe: Recipe) -> list[Example]:
    """With everything computed that neither candidate nor live can change."""
    generator = torch.Generator().manual_seed(recipe.seed)
    trained = model.base_model.targeted_module_names
    inputs = family.precompute([example.model_input for example in examples], trained, generator)
    return [replace(example, model_input=made) for example, made in zip(examples, inputs, strict=True)]


def fine_tune(
    family: Family,
    model: PeftModel,
    examples: Sequence[Example],
    recipe: Recipe,
    name: str,
    folder: Path,
    on_step: Callable[[Progress], None],
) -> float:
    """Train the candidate; stops early when the smoothed loss no longer falls. Returns that loss.

    Args:
        name, folder: of the run, for the tracker (TensorBoard writes below `folder`).
    """
    check_tracker(recipe.tracker)
    accelerator = Accelerator(
        cpu=family.device.type == "cpu",
        mixed_precision="bf16" if recipe.precision == "bfloat16" else "no",
        log_with=None if recipe.tracker == "none" else recipe.tracker,
        project_dir=folder,
        # The processes of `workers/launch.py` share a batch, so a step of theirs is one step of the schedule.
        dataloader_config=DataLoaderConfiguration(split_batches=True),
    )
    if recipe.tracker != "none":
        accelerator.init_trackers(name, config=asdict(recipe))
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=recipe.learning_rate, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, recipe.steps))
    optimizer, schedule = accelerator.prepare(optimizer, schedule)
    batches = _batches(family, examples, recipe)
    loss, best, best_step, started = 0.0, math.inf, 0, time.monotonic()
    for step in range(1, recipe.steps + 1):
        now = _step(family, accelerator, next(batches), optimizer, weights)
        schedule.step()
        loss = now if step == 1 else SMOOTHING * loss + (1 - SMOOTHING) * now
        accelerator.log({"loss": now}, step=step)
        seconds_left = (time.monotonic() - started) / step * (recipe.steps - step)
        on_step(Progress(step, recipe.steps, loss, seconds_left))
        if loss < 0.99 * best:
            best, best_step = loss, step
        if loss < LEARNED_LOSS or step - best_step >= recipe.patience:
            break
    accelerator.end_training()
    return loss


def check_tracker(tracker: str) -> None:
    """Raises SettingsError if its package is missing: accelerate would go on without a word."""
    if tracker != "none" and find_spec(tracker) is None:
        raise SettingsError(f"TRACKER={tracker}, but that package is not installed; install lorabel[tracking]")


def _step(
    family: Family,
    accelerator: Accelerator,
    batch: Batch,
    optimizer: Any,
    weights: Any,
) -> float:
    """The loss of the batch, the same in every process; each computes its share of the examples."""
    own = slice(accelerator.process_index, None, accelerator.num_processes)
    weights_of = torch.tensor(batch.weights[own], device=family.device)
    with accelerator.autocast():
        losses = family.loss(batch.inputs[own], batch.targets[own])
    loss = (losses * weights_of).sum() * accelerator.num_processes / len(batch.targets)
    accelerator.backward(loss)
    if accelerator.num_processes > 1:
        for weight in weights:
            weight.grad = accelerator.reduce(weight.grad, "mean")
    accelerator.clip_grad_norm_(weights, 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return float(accelerator.reduce(loss.detach(), "mean"))


def _batches(family: Family, examples: Sequence[Example], recipe: Recipe) -> Iterator[Batch]:
    """Endless: every example once before any comes again, augmented."""
    class_weights = balance([example.lesson.label_class for example in examples])
    generator = torch.Generator().manual_seed(recipe.seed)
    waiting: list[int] = []
    while True:
        while len(waiting) < min(recipe.batch, len(examples)):
            waiting += torch.randperm(len(examples), generator=generator).tolist()
        places, waiting = waiting[: recipe.batch], waiting[recipe.batch :]
        chosen = [examples[i] for i in places]
        inputs = family.augment([example.model_input for example in chosen], generator)
        yield Batch(inputs, [example.target for example in chosen], [class_weights[i] for i in places])


def balance(classes: Sequence[Hashable]) -> list[float]:
    """A weight for each example, 1 in the mean: all classes weigh alike, but none more than LARGEST_WEIGHT times
    what it would, since a class of one example is learned by heart soon enough."""
    counts = Counter(classes)
    raw = [min(LARGEST_WEIGHT, len(classes) / (len(counts) * counts[one])) for one in classes]
    return [weight * len(raw) / sum(raw) for weight in raw]


def _rate(step: int, steps: int) -> float:
    """A short warm-up, then linear to nothing."""
    return min(1.0, (step + 1) / WARMUP_STEPS) * (1 - step / steps)


def _adapted_layers(weights: Iterable[str]) -> set[str]:
    return {key.removeprefix(PREFIX).removesuffix(A_WEIGHT) for key in weights if key.endswith(A_WEIGHT)}
