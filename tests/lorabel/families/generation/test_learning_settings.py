"""Settings that change what the memory of training is used for, and not what is learned."""

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.utils import checkpoint

from lorabel.errors import SettingsError
from lorabel.families.base import NO_BATCH_ADAPTERS
from lorabel.families.cache import FeatureCache
from lorabel.families.generation import checkpointing
from lorabel.text_contracts import TextTarget
from tests.lorabel.families.test_generator import TEXTS, ask, load, prepare, source  # noqa: F401
from workers.lora import only

pytestmark = pytest.mark.slow


def gradients(family: Any) -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    layers = only(family.lora_layers())
    model = get_peft_model(family.module, LoraConfig(r=4, target_modules=layers, init_lora_weights=False))
    inputs = [prepare(family, ask(text)) for text in TEXTS[:3]]
    family.loss(inputs, [TextTarget(f"Answer {number}.") for number in range(3)]).sum().backward()
    found = {name: weight.grad for name, weight in model.named_parameters() if weight.requires_grad}
    family.predict(inputs, [None] * 3, NO_BATCH_ADAPTERS, FeatureCache({}))
    return {name: grad for name, grad in found.items() if grad is not None}


def test_checkpointed_layers_are_computed_again_backwards_with_the_same_gradients(
    source: str,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[int] = []

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return checkpoint.checkpoint(*args, **kwargs)

    monkeypatch.setattr(checkpointing, "checkpoint", counted)
    plain = gradients(load(source, generator_max_new_tokens=8))
    assert not calls
    checkpointed = gradients(load(source, generator_max_new_tokens=8, generator_checkpointing=True))
    assert len(calls) == 2, "each of the two layers once, and none of them when it predicts"
    assert plain.keys() == checkpointed.keys() and plain
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient)


def test_weights_in_four_bits_are_refused_without_cuda(source: str) -> None:  # noqa: F811
    with pytest.raises(SettingsError, match="GENERATOR_4BIT needs CUDA and the package bitsandbytes"):
        load(source, generator_4bit=True)
