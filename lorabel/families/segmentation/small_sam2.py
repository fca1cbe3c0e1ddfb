"""Small models of SAM 2 that learn: their configuration, and weights to begin with."""

from pathlib import Path

import torch
from torch import nn
from transformers import Sam2Config, Sam2ImageProcessor, Sam2Model, Sam2VideoConfig, Sam2VideoModel
from transformers.models.sam2.modeling_sam2 import Sam2Attention

# See `with_initial_weights`.
SHARPNESS = 2.4
# Channels of the memory of a frame. transformers takes no other number, and more of them in the decoder.
MEMORY_CHANNELS = 64
# Layers of which each output is a sum over inputs.
READING = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)


def small_config(side_px: int, widths: tuple[int, int, int, int], hidden: int) -> Sam2Config:
    """Return the configuration of a small SAM 2, whose masks have half the resolution of its pictures.

    Args:
        side_px: a multiple of 32.
        widths: of the four stages of the tower, divisible by 1, 2, 3 and 4. They must differ: transformers pools
            the shortcut of a stage only if its width is new.
        hidden: the width of the decoder; a multiple of 32.
    """
    sizes = [[side_px // stride] * 2 for stride in (2, 4, 8)]
    backbone = {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": widths[0],
        "image_size": [side_px] * 2,
        "patch_kernel_size": [5, 5],
        "patch_stride": [2, 2],
        "patch_padding": [2, 2],
        "blocks_per_stage": [1, 1, 3, 1],
        "embed_dim_per_stage": list(widths),
        "num_attention_heads_per_stage": [1, 2, 3, 4],
        "window_size_per_stage": [8, 4, 4, 3],
        # Not the first block of a stage: pooling there divides by the size of the window.
        "global_attention_blocks": [3, 4],
        "window_positional_embedding_background_size": [8, 8],
    }
    vision = {
        "backbone_config": backbone,
        "backbone_channel_list": list(widths[::-1]),
        "backbone_feature_sizes": sizes,
        "fpn_hidden_size": hidden,
    }
    decoder = {
        "hidden_size": hidden,
        "mlp_dim": 2 * hidden,
        "num_attention_heads": 4,
        "attention_downsample_rate": 1,
        "iou_head_hidden_dim": hidden,
        "dynamic_multimask_via_stability": False,
    }
    prompts = {"hidden_size": hidden, "image_size": side_px, "patch_size": 8}
    return Sam2Config(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder)


def small_video_config(
    side_px: int, widths: tuple[int, int, int, int], hidden: int, layers: int = 1, **changes: bool | float
) -> Sam2VideoConfig:
    """Return the configuration of a small SAM 2 for videos; see `small_config`.

    Args:
        hidden: more than MEMORY_CHANNELS.
        layers: of the attention to the memories.
        changes: of the configuration.
    """
    small = small_config(side_px, widths, hidden)
    side = small.vision_config.backbone_feature_sizes[-1][0]
    memory = {f"memory_{name}_hidden_size": hidden for name in ("attention", "attention_feed_forward", "encoder")}
    return Sam2VideoConfig(
        vision_config=small.vision_config.to_dict(),
        prompt_encoder_config=small.prompt_encoder_config.to_dict(),
        mask_decoder_config=small.mask_decoder_config.to_dict(),
        image_size=side_px,
        memory_attention_num_layers=layers,
        memory_attention_rope_feat_sizes=[side, side],
        memory_encoder_output_channels=MEMORY_CHANNELS,
        mask_downsampler_embed_dim=hidden,
        memory_fuser_num_layers=1,
        memory_fuser_embed_dim=hidden,
        memory_fuser_intermediate_dim=32,
        **memory,
        **changes,
    )


@torch.no_grad()
def copy_widened(small: Sam2Model, wide: Sam2VideoModel) -> None:
    """Give a model for videos everything that a model for pictures has, so that it draws the same masks.

    Each channel of the decoder is there twice, and counts half where it is read (Net2Net,
    https://arxiv.org/abs/1511.05641). What only videos need stays as it is.

    Args:
        small: of `small_config`.
        wide: of `small_video_config`, as wide, with a decoder that is twice as wide.
    """
    reads_rows = {
        f"{name}.weight" for name, layer in wide.named_modules() if isinstance(layer, nn.ConvTranspose2d)
    }
    weights = wide.state_dict()
    for name, weight in small.state_dict().items():
        target = weights[name]
        inputs = 0 if name in reads_rows else 1
        for axis, (old, new) in enumerate(zip(weight.shape, target.shape, strict=True)):
            if new == old:
                continue
            weight = weight.repeat_interleave(2, dim=axis)
            if axis == inputs and isinstance(wide.get_submodule(name.rpartition(".")[0]), READING):
                weight = weight / 2
        target.copy_(weight)
    for name, layer in wide.mask_decoder.named_modules():
        # Twice the channels double a product of two features; of queries and keys it is divided by a larger root.
        if name.endswith("q_proj") or (name.startswith("output_hypernetworks_mlps") and name.endswith("proj_out")):
            factor = 0.5**0.5 if name.endswith("q_proj") else 0.5
            layer.weight.mul_(factor)
            layer.bias.mul_(factor)


@torch.no_grad()
def with_initial_weights(model: Sam2Model) -> Sam2Model:
    """Give a new model weights from which it learns to obey clicks.

    transformers' own initial weights are made to be overwritten by a checkpoint. (1) It draws two different random
    matrices for the positions of points and for those of the picture, and trains neither; a click then has nothing
    in common with the place that it is at. (2) It draws weights with a standard deviation of 0.02, which is 10
    times too small for narrow layers. (3) Here queries and keys start with equal weights, so that a click looks at
    its own place from the first step.
    """
    for layer in model.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            layer.reset_parameters()
        elif isinstance(layer, nn.Embedding):
            nn.init.normal_(layer.weight, std=0.3)
    for name, weight in model.named_parameters():
        if "pos_embed" in name:
            nn.init.normal_(weight, std=0.02)
    for layer in model.mask_decoder.modules():
        if isinstance(layer, Sam2Attention):
            layer.q_proj.weight.mul_(SHARPNESS)
            layer.k_proj.weight.copy_(layer.q_proj.weight)
            layer.q_proj.bias.zero_()
            layer.k_proj.bias.zero_()
    positions = model.shared_image_embedding.positional_embedding
    model.prompt_encoder.shared_embedding.positional_embedding.copy_(positions)
    return model


def save_model(model: Sam2Model | Sam2VideoModel, folder: Path) -> None:
    """Write a model that `small_config` describes, with the description of its pictures."""
    model.save_pretrained(folder)
    side = model.config.prompt_encoder_config.image_size
    size, half = {"height": side, "width": side}, [0.5] * 3
    Sam2ImageProcessor(size=size, image_mean=half, image_std=half).save_pretrained(folder)
