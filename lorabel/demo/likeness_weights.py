"""Initial weights of a SAM 2 for videos with which a frame is compared with its memories by what they look like.

With transformers' own, or with random ones, a place looks at any place of the memories, and the model learns late
what tells two things apart. Here queries and keys are the same features, as in `with_initial_weights` of
`lorabel.families.segmentation.small_sam2`: each place looks at the places that look like it.
"""

import torch
from torch import Tensor
from transformers import Sam2VideoModel

CHANNELS = 48
"""Of the channels of a memory, those that say what its place looks like; the others say if the thing is there."""
MEMORY_SCALE = 2.0
"""Standard deviation of these channels: that of the positions, which transformers adds to them, is 0.7."""
SHARPNESS = 2.0
FEWEST_TURNS = 10
"""Rotary frequencies from this one on turn by 0.4 at most from one side of a frame to the other."""
SELF_ATTENTION = 0.1
"""Of the initial weights of what the places of a frame tell each other."""


@torch.no_grad()
def compare_by_likeness(model: Sam2VideoModel, features: Tensor) -> None:
    """Set the weights of the memories.

    Args:
        features: (places, hidden) float32: of the lowest resolution, of many frames.
    """
    (layer,) = model.memory_attention.layers
    encoder, attention = model.memory_encoder, layer.cross_attn_image
    mean, hidden = features.mean(dim=0), features.shape[1]
    variances, directions = torch.linalg.eigh(torch.cov(features.T))  # ascending
    looks = directions[:, -CHANNELS:] / variances[-CHANNELS:].sqrt()  # (hidden, CHANNELS): whitens
    others = directions[:, : len(encoder.projection.weight) - CHANNELS]

    encoder.feature_projection.weight.copy_(torch.eye(hidden)[..., None, None])
    encoder.feature_projection.bias.copy_(-mean)
    encoder.projection.weight.copy_(torch.cat([MEMORY_SCALE * looks, others], dim=1).T[..., None, None])
    encoder.projection.bias.zero_()
    of_mask = encoder.mask_downsampler.final_conv
    mixed = torch.randn(others.shape[1], of_mask.in_channels) * 2 / of_mask.in_channels**0.5
    of_mask.weight.copy_((others @ mixed)[..., None, None])
    of_mask.bias.zero_()

    slow = _slow_channels(hidden)[:CHANNELS]
    attention.k_proj.weight.zero_()
    attention.k_proj.weight[slow, torch.arange(CHANNELS)] = 1 / MEMORY_SCALE
    attention.k_proj.bias.zero_()
    scale = features.std(dim=1).mean()  # which the layer's normalisation takes out
    attention.q_proj.weight.zero_()
    attention.q_proj.weight[slow] = SHARPNESS * scale * looks.T
    attention.q_proj.bias.zero_()
    attention.q_proj.bias[slow] = -SHARPNESS * looks.T @ (mean - mean.mean())
    layer.self_attn.o_proj.weight.mul_(SELF_ATTENTION)
    model.memory_attention.layer_norm.weight.fill_(scale)
    model.memory_attention.layer_norm.bias.fill_(features.mean())


def _slow_channels(hidden: int) -> Tensor:
    """Channels whose rotary frequencies are the lowest first; see Sam2VideoVisionRotaryEmbedding of transformers.

    Half of the channels turn with the column, half with the row, in pairs, the fastest first.
    """
    pairs = torch.arange(FEWEST_TURNS, hidden // 4).flip(0)
    of_axis = torch.stack([2 * pairs, 2 * pairs + 1, hidden // 2 + 2 * pairs, hidden // 2 + 2 * pairs + 1], dim=1)
    return of_axis.flatten()
