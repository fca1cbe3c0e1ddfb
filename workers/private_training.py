"""Trains a candidate adapter with differential privacy (DP-SGD, Abadi et al., https://arxiv.org/abs/1607.00133).

Each step takes a random sample in which every task is with the same probability, and the gradient of each task by
itself. Opacus's optimizer clips and sums them and adds the noise. Opacus's hooks are not used: they find the
gradients of examples along the first dimension of a layer's input, and adapters of encoders are on a tower that
reads label texts, which all examples share.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from peft import PeftModel
from sqlalchemy import func, select

from lorabel.database import privacy_ledger
from lorabel.database.tables import Annotation
from lorabel.database.training_runs import IS_USABLE
from lorabel.errors import LorabelError
from lorabel.families.base import Family
from lorabel.families.encoders.encoder import Encoder
from lorabel.settings import Settings
from workers import lora
from workers.examples import PreparedExample
from workers.privacy_accounting import Mechanism, noise_multiplier
from workers.privacy_budget import PrivacyError, spend
from workers.private_heads import is_single_choice
from workers.services import Services

# Length to which the gradient of a task is shortened.
MOST_LENGTH = 1.0
# Tasks whose losses are computed at once.
CHUNK = 16
UNSUPPORTED = (
    "nothing is trained while DP_EPSILON is set: only adapters of encoders that answer single choices about one "
    "content have a private training, and those beside fitted heads have none (LORA_TOWERS=text trains the others)"
)
RANKS_ARE_CHOSEN = (
    "nothing is trained: AdaLoRA chooses ranks by gradients without noise, so DP_EPSILON needs another LORA_KIND"
)


def refusal(settings: Settings, family: Family, recipe: lora.Recipe, question: object) -> str | None:
    """Why such questions have no private training where DP_EPSILON is set; None if they are trained.

    The loss of each example must be one of that example alone. Adapters beside heads learn from pairs of tasks, so
    that a gradient is not of one task. AdaLoRA chooses ranks by gradients.
    """
    if settings.dp_epsilon is None:
        return None
    if recipe.kind == "adalora":
        return RANKS_ARE_CHOSEN
    is_supported = isinstance(family, Encoder) and not recipe.is_for_head and is_single_choice(question)
    return None if is_supported else UNSUPPORTED


def prepare(
    services: Services,
    project_id: int,
    from_name: str,
    recipe: lora.Recipe,
    examples: Sequence[PreparedExample],
    is_partial: bool,
) -> lora.Recipe:
    """Spend what the training will cost, and return the recipe with its noise.

    Args:
        is_partial: whether a limit has left some tasks for a later run.

    Raises:
        PrivacyError: the budget is spent, or some tasks are left out: which ones would depend on the others.
    """
    settings = services.settings
    with services.store.read() as session:
        usable = select(func.count()).where(Annotation.project_id == project_id, *IS_USABLE)
        annotations = session.scalar(usable) or 0
    most = min(settings.train_max_annotations, settings.replay_annotations)
    if is_partial or annotations > most:
        raise PrivacyError(
            f"nothing is trained: there are {annotations} annotations, and a private training takes all or none; "
            f"raise TRAIN_MAX_ANNOTATIONS and REPLAY_ANNOTATIONS (the smaller is {most}), TRAIN_MEMORY_MB or "
            "TRAIN_READ_S"
        )
    if len({example.training_example.task_id for example in examples}) != len(examples):
        raise PrivacyError("nothing is trained: some task is several examples, and a private training needs one")
    rate = min(1.0, recipe.batch / len(examples))
    noise = noise_multiplier(settings, rate, recipe.steps)
    mechanism = Mechanism(noise, rate, recipe.steps)
    spend(services.store, settings, project_id, from_name, mechanism, len(examples), privacy_ledger.ADAPTER)
    return replace(recipe, noise_multiplier=noise, sample_rate=rate)


def fine_tune(
    family: Family,
    model: PeftModel,
    examples: Sequence[PreparedExample],
    recipe: lora.Recipe,
    on_step: Callable[[lora.Progress], None],
) -> float:
    """Train the candidate for all steps of the recipe: where the loss stands must not decide when it ends.

    Args:
        on_step: called after each step. The losses are those of the tasks, without noise.

    Returns:
        The smoothed loss.

    Raises:
        LorabelError: the loss is not finite.
    """
    # Imported here as it takes seconds, and few trainings are private.
    from opacus.optimizers import DPOptimizer

    assert recipe.noise_multiplier is not None
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    plain = torch.optim.AdamW(weights, lr=recipe.learning_rate, weight_decay=lora.WEIGHT_DECAY)
    optimizer = DPOptimizer(
        plain,
        noise_multiplier=recipe.noise_multiplier,
        max_grad_norm=MOST_LENGTH,
        expected_batch_size=max(1, round(recipe.sample_rate * len(examples))),
        generator=_secret_generator(family.device),
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(plain, lambda step: lora.rate(step, recipe, 0.0))
    generator = _secret_generator(torch.device("cpu"))
    loss, started = 0.0, time.monotonic()
    for step in range(1, recipe.steps + 1):
        is_chosen = torch.rand(len(examples), generator=generator) < recipe.sample_rate
        chosen = [example for example, is_in in zip(examples, is_chosen.tolist(), strict=True) if is_in]
        losses = set_gradients(family, weights, chosen, generator)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
        step_loss = sum(losses) / len(losses) if losses else loss
        if not math.isfinite(step_loss):
            raise LorabelError(f"the loss is {step_loss} after {step - 1} steps; lower LEARNING_RATE")
        loss = step_loss if step == 1 else lora.SMOOTHING * loss + (1 - lora.SMOOTHING) * step_loss
        seconds_left = (time.monotonic() - started) / step * (recipe.steps - step)
        on_step(lora.Progress(step, recipe.steps, loss, seconds_left))
    return loss


def _secret_generator(device: torch.device) -> torch.Generator:
    """Samples and noise that somebody could repeat would hide nothing, so SEED has no part in them."""
    generator = torch.Generator(device)
    generator.seed()
    return generator


def set_gradients(
    family: Family,
    weights: Sequence[torch.nn.Parameter],
    examples: Sequence[PreparedExample],
    generator: torch.Generator,
) -> list[float]:
    """Set `grad_sample` of each weight to the gradient of each example, and return the examples' losses."""
    losses: list[float] = []
    gradients: list[list[torch.Tensor]] = []
    for start in range(0, len(examples), CHUNK):
        chunk = examples[start : start + CHUNK]
        inputs, targets = family.augment(
            [example.model_input for example in chunk], [example.target for example in chunk], generator
        )
        chunk_losses = family.loss(inputs, targets)
        losses += chunk_losses.tolist()
        for loss in chunk_losses:
            found = torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True)
            gradients.append(
                [
                    torch.zeros_like(weight) if gradient is None else gradient
                    for weight, gradient in zip(weights, found, strict=True)
                ]
            )
    for position, weight in enumerate(weights):
        parts = [gradient[position] for gradient in gradients]
        weight.grad_sample = torch.stack(parts) if parts else weight.new_zeros((0, *weight.shape))  # type: ignore[attr-defined]
    return losses
