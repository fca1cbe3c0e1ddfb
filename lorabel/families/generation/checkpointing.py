"""Gradient checkpointing of models of transformers: states are computed again backwards instead of being kept.

It takes about a third more time, and memory for the states of one layer in place of all.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer


@contextmanager
def checkpointed(module: nn.Module) -> Iterator[None]:
    """In the block the layers of a model are checkpointed, in eval mode too. Dropout stays off."""
    layers = [layer for layer in module.modules() if isinstance(layer, GradientCheckpointingLayer)]
    try:
        for layer in layers:
            layer.gradient_checkpointing = True
            layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
            layer.training = True  # of the layer alone, not of the modules in it
        yield
    finally:
        for layer in layers:
            layer.gradient_checkpointing = False
            layer.training = False
