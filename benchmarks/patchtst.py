"""A small PatchTST of transformers that trains itself on series: parts of it are hidden, and it fills them in.

Its states are tried as features of windows, in the place of statistics and beside them; see
docs/decisions/0041-segments-of-series.md. Channels go through it one by one.
"""

import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PatchTSTConfig, PatchTSTForPretraining

Float64 = NDArray[np.float64]
Encode = Callable[[Float64], NDArray[np.float32]]
LENGTH, PATCH, STRIDE, DIM = 256, 8, 4, 64
BATCH, RATE, HIDDEN = 32, 1e-3, 0.4


def trained_encoder(series: Sequence[Float64], seconds: float) -> Encode:
    """Train a PatchTST on series, and return the function from a series to its states.

    Args:
        series: each (cells, channels).
        seconds: of CPU time.

    Returns:
        A function from (cells, channels) to (cells, channels * DIM).
    """
    torch.manual_seed(0)
    config = PatchTSTConfig(
        num_input_channels=1,
        context_length=LENGTH,
        patch_length=PATCH,
        patch_stride=STRIDE,
        d_model=DIM,
        num_hidden_layers=2,
        num_attention_heads=4,
        ffn_dim=2 * DIM,
        norm_type="layernorm",
        random_mask_ratio=HIDDEN,
        scaling=None,
        do_mask_input=True,
    )
    model: Any = PatchTSTForPretraining(config)
    _train(model, [_normed(each) for each in series], seconds)
    model.eval()
    return lambda values: _states(model, _normed(values))


def _train(model: Any, series: Sequence[NDArray[np.float32]], seconds: float) -> None:
    random = np.random.default_rng(0)
    optimizer = torch.optim.AdamW(model.parameters(), RATE)
    began, losses = time.thread_time(), list[float]()
    while time.thread_time() - began < seconds:
        batch = []
        for _ in range(BATCH):
            values = series[int(random.integers(len(series)))]
            first = int(random.integers(len(values) - LENGTH))
            batch.append(values[first : first + LENGTH, random.integers(values.shape[1])])
        loss = model(past_values=torch.tensor(np.stack(batch))[..., None]).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    print(
        f"PatchTST: {len(losses)} steps, loss {np.mean(losses[:20]):.3f} -> {np.mean(losses[-50:]):.3f}",
        file=sys.stderr,
    )


def _normed(values: Float64) -> NDArray[np.float32]:
    low, high = np.percentile(values, [10, 90], axis=0)
    return np.asarray((values - np.median(values, axis=0)) / (high - low) * 2.5, np.float32)


@torch.inference_mode()
def _states(model: Any, values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Half of each piece of LENGTH is used, the middle; states are interpolated between the middles of patches."""
    cells, channels = values.shape
    padded = np.pad(values, ((LENGTH // 4, LENGTH), (0, 0)), mode="edge")
    states = np.zeros((cells, channels * DIM), np.float32)
    for first in range(0, cells, LENGTH // 2):
        piece = torch.tensor(padded[first : first + LENGTH].T)[..., None]
        patches = model.model.encoder(patch_input=model.model.patchifier(piece)).last_hidden_state[:, 0]
        flat = patches.permute(1, 0, 2).reshape(patches.shape[1], -1).numpy()
        unread = (LENGTH - PATCH) % STRIDE
        middles = first - LENGTH // 4 + unread + STRIDE * np.arange(len(flat)) + (PATCH - 1) / 2
        inside = np.arange(first, min(cells, first + LENGTH // 2))
        for column in range(flat.shape[1]):
            states[inside, column] = np.interp(inside, middles, flat[:, column])
    return states
