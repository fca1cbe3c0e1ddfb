"""What kinds of adapters need in training: their configs in PEFT, AdaLoRA's ranks, and what they cannot learn."""

import json
import math
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import cast

import torch
from peft import AdaLoraConfig, AdaLoraModel, IA3Config, LoraConfig, PeftConfig, PeftModel, load_peft_weights
from torch import Tensor, nn

from lorabel.adapter_kinds import ADALORA, DORA, IA3, RSLORA, kind_of
from lorabel.families.base import Family

# rsLoRA keeps the size of steps the same at every rank, so its alpha is not in proportion with the rank.
RSLORA_ALPHA = 16
# AdaLoRA begins with a rank so much above the mean that it ends with, and gives ranks up between these shares of
# its steps. A training of fewer steps than FEWEST_STEPS gives up none.
FIRST_RANK, FIRST_SHARE, LAST_SHARE, FEWEST_STEPS = 1.5, 0.2, 0.6, 10
# By which LEARNING_RATE is multiplied. AdaLoRA's three factors begin as zero and small numbers, and IA3's factors
# move by the rate itself: at LoRA's rate they have learned a quarter as much (docs/learning.md).
RATE_FACTORS: Mapping[str, float] = MappingProxyType({ADALORA: 10.0, IA3: 10.0})
# Each layer's weights by the names of PEFT's files.
WEIGHT_PARTS = (".lora_A", ".lora_A.weight", ".ia3_l")


def new_config(kind: str, rank: int, layers: str, steps: int) -> PeftConfig:
    """Return the config of a new adapter.

    Args:
        kind: one of `lorabel.adapter_kinds.KINDS`.
        rank: of LoRA; AdaLoRA's mean rank at the end. IA3 has none.
        layers: PEFT's `target_modules`.
        steps: of the training, at most.
    """
    if kind == IA3:
        # All layers are scaled at their outputs: only this can be mixed with other kinds in one batch.
        return IA3Config(target_modules=layers, feedforward_modules=[])
    if kind == ADALORA:
        first_rank = math.ceil(FIRST_RANK * rank)
        config = AdaLoraConfig(
            init_r=first_rank, target_r=rank, lora_alpha=2 * first_rank, target_modules=layers, total_step=steps
        )
        _set_schedule(config, steps)
        return config
    alpha = RSLORA_ALPHA if kind == RSLORA else 2 * rank
    return LoraConfig(
        r=rank, lora_alpha=alpha, target_modules=layers, use_dora=kind == DORA, use_rslora=kind == RSLORA
    )


def rate_factor(kind: str) -> float:
    """By which the rate for LoRA is multiplied for a kind."""
    return RATE_FACTORS.get(kind, 1.0)


def continued_config(live: Path, layers: str, steps: int) -> PeftConfig:
    """Return the config of an adapter that starts from another.

    AdaLoRA that has given up ranks keeps those that it has.

    Args:
        live: the other's folder.
        layers: PEFT's `target_modules`.
        steps: of the training, at most.
    """
    config = PeftConfig.from_pretrained(live)
    config.target_modules, config.inference_mode, config.base_model_name_or_path = layers, False, None
    if isinstance(config, AdaLoraConfig):
        _set_schedule(config, steps)
    return config


def kind_of_folder(folder: Path) -> str | None:
    """Return the kind of the adapter in a folder; None if it is no kind that is trained."""
    return kind_of(json.loads((folder / "adapter_config.json").read_text()))


def adapted_layers(weights: Collection[str]) -> set[str]:
    """Return the layers that an adapter is on, by the names of its weights in PEFT's file."""
    endings = [(key.removeprefix("base_model.model."), part) for key in weights for part in WEIGHT_PARTS]
    return {key.removesuffix(part) for key, part in endings if key.endswith(part)}


def refusal(kind: str, family: Family, layers: Collection[str], live: Path | None = None) -> str | None:
    """Return why adapters of a kind cannot be trained, as a sentence; None if they can.

    Args:
        layers: those of a new adapter.
        live: the folder of the adapter whose layers are trained as well.
    """
    if kind not in (DORA, IA3):
        return None
    live_layers = set() if live is None else adapted_layers(load_peft_weights(live, device="cpu"))
    zero_layers = [
        name for name in sorted({*layers, *live_layers}) if _is_zero(kind, family.module.get_submodule(name))
    ]
    if not zero_layers:
        return None
    what = "divides by the norms of weights" if kind == DORA else "only multiplies what a layer computes"
    return (
        f"nothing was trained: LORA_KIND={kind} {what}, and weights of {zero_layers[0]} are zero before training; "
        f"set LORA_KIND_{family.name.upper()}=lora, rslora or adalora"
    )


def _is_zero(kind: str, layer: nn.Module) -> bool:
    weight = layer.weight
    if not isinstance(weight, Tensor) or not weight.dtype.is_floating_point:
        return False
    is_zero = ~weight.detach().bool().any(dim=1)
    return bool(is_zero.any() if kind == DORA else is_zero.all())


@contextmanager
def quiet_about_ranks() -> Iterator[None]:
    """In the block PEFT and torch do not warn of AdaLoRA's layers whose ranks differ, or that have none left."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Initializing zero-element tensors", UserWarning)
        warnings.filterwarnings("ignore", r".*LoRA tensor\(s\) have invalid shape", UserWarning)
        # PEFT applies the pattern all the same, when it reads the weights.
        warnings.filterwarnings("ignore", "The following rank_pattern keys did not match", RuntimeWarning)
        yield


class RankAllocation:
    """AdaLoRA's part in a training: keeps P and Q near to orthogonal, and gives up ranks. Else it does nothing.

    Args:
        model: with the adapter that is trained.
        name: the adapter's.
    """

    def __init__(self, model: nn.Module, name: str) -> None:
        self._model: AdaLoraModel | None = None
        self._matrices: list[Tensor] = []
        if not isinstance(model, PeftModel) or not isinstance(model.base_model, AdaLoraModel):
            return
        self._config = cast(AdaLoraConfig, model.peft_config[name])
        for key, weight in model.named_parameters():
            if weight.requires_grad and weight.numel() and f".lora_A.{name}" in key:
                self._matrices.append(weight)
            elif weight.requires_grad and weight.numel() and f".lora_B.{name}" in key:
                self._matrices.append(weight.T)
        # What has given up its ranks already is not asked to give up more.
        if self._config.rank_pattern is None and (self._config.total_step or 0) >= FEWEST_STEPS:
            self._model = model.base_model

    def penalty(self) -> Tensor | float:
        """Return what is added to the loss: how far P and Q are from orthogonal, times PEFT's weight of it."""
        if not self._matrices:
            return 0.0
        distances = [
            torch.linalg.norm(matrix @ matrix.T - torch.eye(len(matrix), device=matrix.device))
            for matrix in self._matrices
        ]
        distance: Tensor = torch.stack(distances).mean() * self._config.orth_reg_weight
        return distance

    def step(self, number: int, weights: Collection[nn.Parameter]) -> None:
        """Give up the ranks that a step gives up. Call it after the optimizer's step, while there are gradients.

        Args:
            number: of the step, from 1 on.
            weights: all that are trained.
        """
        if self._model is None:
            return
        for weight in weights:
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
        self._model.update_and_allocate(number)


def _set_schedule(config: AdaLoraConfig, steps: int) -> None:
    config.total_step = steps
    config.tinit, config.tfinal = int(FIRST_SHARE * steps), steps - math.ceil(LAST_SHARE * steps)
    config.tinit = min(config.tinit, steps - config.tfinal - 1)
