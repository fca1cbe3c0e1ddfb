"""Trains the demo's tracker: `python -m lorabel.demo.train_tracker --out FOLDER --minutes 15`.

A small SAM 2 for videos learns on drawn clips (`lorabel.demo.moving_clips`) to follow what was in a box. It begins
as the demo's segmenter, which obeys boxes. What it computes of a frame alone stays as it is, and is computed once.
The memory and the decoder learn, through ever more frames. Many clips go through one session of transformers, as
if they were one: what is trained is what is used.
"""

import argparse
import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from transformers import Sam2Model, Sam2VideoModel
from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

from lorabel.demo import SEGMENTER_FOLDER
from lorabel.demo.likeness_weights import compare_by_likeness
from lorabel.demo.moving_clips import Clip, moving_clips
from lorabel.demo.train_segmenter import WIDTHS, normalised
from lorabel.families.segmentation.small_sam2 import READING, copy_widened, save_model, small_video_config

SEED, UNSEEN_SEED = 0, 1
SIDE_PX, HIDDEN = 64, 128
CLIPS, FRAMES = 400, 9
TESTED, TESTED_FRAMES = 16, 36
MEMORIES = 4
"""Frames that a frame is compared with: the first, and the three before."""
PLAN = ((0.15, 24, 2), (0.4, 16, 4), (1.0, 12, 6))
"""Until which part of the time how many clips of how many frames are in a step."""
RATE, WARM_UP_STEPS = 1e-3, 50
MOST_GRADIENT = 1.0
AVERAGED = 0.99
"""Share of the earlier average in the average of the weights over the steps, which is what is saved."""
JITTER_PX = 0.7
FEWEST_SEEN_PX = 12
"""Pixels of a thing that are seen, so that it counts as seen. A box is drawn around four times as many."""
LAYERS, SCALE, TIME_STD = 1, 0.1, 0.1
EVERY = 25


@dataclass(frozen=True)
class EncodedClips:
    """What the model computes of each frame alone, and what is seen in it.

    Attributes:
        features: of each level, (clips, frames, places, channels) float16.
        masks: of each clip, (things, frames, side, side) bool.
    """

    features: tuple[Tensor, ...]
    masks: list[NDArray[np.bool_]]


@dataclass(frozen=True)
class Batch:
    """A thing in each of several clips.

    Attributes:
        features: of each level, (frames, places, clips, channels) float32.
        boxes: (clips, 4) float32: around the thing in the first frame, in pixels.
        masks: (frames, clips, side, side) float32: 1 inside.
    """

    features: tuple[Tensor, ...]
    boxes: Tensor
    masks: Tensor

    @property
    def is_seen(self) -> Tensor:
        """(frames, clips) bool."""
        return self.masks.sum(dim=(2, 3)) >= FEWEST_SEEN_PX


def new_model() -> Sam2VideoModel:
    """Return a model that has learned nothing but the tower of the demo's segmenter."""
    config = small_video_config(
        SIDE_PX,
        WIDTHS,
        HIDDEN,
        LAYERS,
        num_maskmem=MEMORIES,
        max_object_pointers_in_encoder=MEMORIES,
        enable_temporal_pos_encoding_for_object_pointers=False,
        multimask_output_in_sam=False,
        memory_attention_dropout=0.0,
        memory_attention_rope_dropout=0.0,
    )
    model = Sam2VideoModel(config)
    for part in (model.memory_attention, model.memory_encoder, model.object_pointer_proj):
        for layer in part.modules():
            if isinstance(layer, READING):
                layer.reset_parameters()  # transformers' own initial weights are too small for narrow layers
    copy_widened(Sam2Model.from_pretrained(SEGMENTER_FOLDER, dtype=torch.float32), model)
    with torch.no_grad():
        model.memory_temporal_positional_encoding.normal_(std=TIME_STD)
        for layer in model.memory_encoder.memory_fuser.layers:
            layer.scale.fill_(SCALE)
        score = model.mask_decoder.pred_obj_score_head.proj_out
        score.weight.zero_()
        score.bias.fill_(1.0)  # else no mask is learned at first
    return model


def learning_parts(model: Sam2VideoModel) -> tuple[nn.Module, ...]:
    """Return the decoder but for what it computes of a frame alone, and all that has to do with memories."""
    decoder = model.mask_decoder
    frozen = (decoder.conv_s0, decoder.conv_s1, decoder.iou_prediction_head)
    parts = [part for part in decoder.children() if part not in frozen]
    memories = [model.memory_attention, model.memory_encoder, model.object_pointer_proj]
    own = nn.ParameterList(
        [
            model.memory_temporal_positional_encoding,
            model.occlusion_spatial_embedding_parameter,
            model.no_object_pointer,
            model.no_memory_embedding,
        ]
    )
    return (*parts, *memories, own)


def follow(model: Sam2VideoModel, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return (frames, clips, height, width) logits of the masks, and (frames, clips) logits of being seen."""
    frames, clips = batch.masks.shape[:2]
    session = Sam2VideoInferenceSession(dtype=torch.float32, max_vision_features_cache_size=frames)
    session.processed_frames = dict.fromkeys(range(frames))
    thing = session.obj_id_to_idx(0)
    with torch.no_grad():
        picture = torch.zeros(1, 3, SIDE_PX, SIDE_PX)
        positions = model.get_image_features(picture, return_dict=True).fpn_position_encoding
    corners = torch.tensor([2, 3], dtype=torch.int32).expand(clips, 1, 2)
    prompt = {"point_coords": batch.boxes.reshape(clips, 1, 2, 2), "point_labels": corners}
    masks, scores = [], []
    # transformers expects the attention's output of one clip alone: (1, 1, places, channels).
    clips_first = model.memory_attention.register_forward_hook(lambda *call: call[-1].transpose(0, 1))
    for frame in range(frames):
        of_frame = [level[frame] for level in batch.features]
        places = [each.expand(-1, clips, -1) for each in positions]
        session.cache.cache_vision_features(frame, {"vision_feats": of_frame, "vision_pos_embeds": places})
        is_first = frame == 0
        point_inputs = prompt if is_first else None
        output = model._run_single_frame_inference(
            session, frame, thing, 1, is_first, point_inputs, mask_inputs=None, reverse=False
        )
        memory, memory_places = model._encode_new_memory(
            of_frame[-1], output["high_res_masks"], output["object_score_logits"], is_first
        )
        remembered = {**output, "maskmem_features": memory, "maskmem_pos_enc": memory_places}
        session.store_output(thing, frame, output_value=remembered, is_conditioning_frame=is_first)
        masks.append(output["pred_masks"][:, 0])
        scores.append(output["object_score_logits"].flatten())
    clips_first.remove()
    return torch.stack(masks), torch.stack(scores)


def loss_of(model: Sam2VideoModel, batch: Batch) -> Tensor:
    """Focal and Dice loss of the masks where the thing is seen, and cross-entropy of whether it is seen."""
    logits, scores = follow(model, batch)
    is_seen = batch.is_seen
    seen_loss = functional.binary_cross_entropy_with_logits(scores, is_seen.float())
    is_judged = is_seen & (scores > 0)  # transformers gives no mask where it takes the thing for unseen
    if not is_judged.any():
        return seen_loss
    masks = functional.interpolate(batch.masks, size=logits.shape[-2:], mode="area")
    return seen_loss + _mask_losses(logits[is_judged], masks[is_judged]).mean()


def _mask_losses(logits: Tensor, masks: Tensor) -> Tensor:
    cross_entropy = functional.binary_cross_entropy_with_logits(logits, masks, reduction="none")
    focal = (6 - 5 * torch.exp(-cross_entropy)) * cross_entropy
    shares = logits.sigmoid()
    common, both = (shares * masks).sum(dim=(1, 2)), shares.sum(dim=(1, 2)) + masks.sum(dim=(1, 2))
    return focal.mean(dim=(1, 2)) + 1 - (2 * common + 1) / (both + 1)


@torch.inference_mode()
def encoded(model: Sam2VideoModel, clips: Iterable[Clip]) -> EncodedClips:
    """Compute what does not change while the model learns."""
    levels: list[list[Tensor]] = [[], [], []]
    masks = []
    for clip in clips:
        output = model.get_image_features(normalised(clip.pixels), return_dict=True)
        for level, features in zip(levels, output.fpn_hidden_states, strict=True):
            level.append(features.transpose(0, 1).half())
        masks.append(clip.masks)
    return EncodedClips(tuple(torch.stack(level) for level in levels), masks)


def batch_of(clips: EncodedClips, count: int, frames: int, rng: np.random.Generator) -> Batch:
    """Random things in parts of random clips, half of which are played backwards."""
    chosen: list[list[Tensor]] = []
    boxes, masks = [], []
    while len(chosen) < count:
        clip = int(rng.integers(len(clips.masks)))
        things, length = clips.masks[clip].shape[:2]
        thing, start = rng.integers(things), int(rng.integers(length - frames + 1))
        numbers = list(range(start, start + frames))[:: 1 if rng.random() < 0.5 else -1]
        shown = clips.masks[clip][thing, numbers]
        if shown[0].sum() < 4 * FEWEST_SEEN_PX:
            continue
        chosen.append([level[clip, numbers].float() for level in clips.features])
        masks.append(shown)
        boxes.append(box_of(shown[0]) + rng.normal(0, JITTER_PX, 4))
    features = tuple(torch.stack(level, dim=2) for level in zip(*chosen, strict=True))
    right = torch.from_numpy(np.stack(masks, axis=1)).float()
    return Batch(features, torch.tensor(np.stack(boxes), dtype=torch.float32), right)


def box_of(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(4,): left, top, right and bottom edge of what is seen, as places of pixels: -0.5 is the left edge."""
    rows, columns = np.nonzero(mask)
    return np.array([columns.min() - 0.5, rows.min() - 0.5, columns.max() + 0.5, rows.max() + 0.5])


@torch.inference_mode()
def unseen_ious(model: Sam2VideoModel, batch: Batch) -> NDArray[np.float64]:
    """(frames, clips): IoU of each mask; 1 where the thing is neither seen nor found."""
    logits, _ = follow(model, batch)
    found = functional.interpolate(logits, size=batch.masks.shape[-2:], mode="bilinear") > 0
    right = batch.masks > 0.5
    right &= batch.is_seen[..., None, None]
    common, union = (found & right).sum(dim=(2, 3)), (found | right).sum(dim=(2, 3))
    return torch.where(union > 0, common / union.clamp(min=1), 1.0).double().numpy()


def train(minutes: float, out: Path, start_folder: Path | None = None, rate: float = RATE) -> None:
    """Train for some minutes of CPU time, and write the model. Prints the mean IoU on unseen clips.

    CPU time of one thread (OMP_NUM_THREADS=1) makes as many steps on a busy machine as on an idle one.

    Args:
        start_folder: the model to go on with, through long clips at once; None for a new one.
        rate: the highest learning rate. It falls along a cosine over the minutes.
    """
    seed = SEED if start_folder is None else SEED + 2
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = (
        new_model() if start_folder is None else Sam2VideoModel.from_pretrained(start_folder, dtype=torch.float32)
    )
    model.eval()  # there is nothing random in it, and transformers gives the scores in this mode alone
    clips = encoded(model, islice(moving_clips(seed, SIDE_PX, FRAMES), CLIPS))
    if start_folder is None:
        compare_by_likeness(model, clips.features[-1][::8].float().flatten(0, 2))
    unseen = encoded(model, islice(moving_clips(UNSEEN_SEED, SIDE_PX, TESTED_FRAMES), TESTED))
    tested = batch_of(unseen, TESTED, TESTED_FRAMES, np.random.default_rng(UNSEEN_SEED))
    learning = [weight for part in learning_parts(model) for weight in part.parameters()]
    average = {name: weight.clone() for name, weight in model.state_dict().items()}
    optimizer = torch.optim.AdamW(learning, lr=rate, weight_decay=0.01, betas=(0.9, 0.98))
    start, step = time.process_time(), 0
    while (passed := (time.process_time() - start) / 60 / minutes) < 1:
        step += 1
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, step / WARM_UP_STEPS) * (0.5 + 0.5 * math.cos(math.pi * passed))
        at = passed if start_folder is None else 1.0
        _, count, frames = next(part for part in PLAN if at <= part[0])
        loss = loss_of(model, batch_of(clips, count, frames, rng))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(learning, MOST_GRADIENT)
        optimizer.step()
        share = 1 - min(AVERAGED, step / (step + 10))
        for name, weight in model.state_dict().items():
            average[name].lerp_(weight, share)
        if step % EVERY == 0:
            print(f"step {step}: {passed:.0%} of the time, {frames} frames, loss {loss.item():.3f}", flush=True)
        if step % (4 * EVERY) == 0:
            _save(model, average, tested, out)
    _save(model, average, tested, out)


def _save(model: Sam2VideoModel, average: dict[str, Tensor], tested: Batch, out: Path) -> None:
    """Write the averaged weights in float16, and print how good they are."""
    averaged = Sam2VideoModel(model.config)
    averaged.load_state_dict(average)
    save_model(averaged.half(), out)
    ious = unseen_ious(averaged.float().eval(), tested)
    parts = [f"{ious[first : first + 9].mean():.3f}" for first in range(0, TESTED_FRAMES, 9)]
    print(f"mean IoU on unseen clips: {ious[0].mean():.3f} in the first frame, {', '.join(parts)}", flush=True)


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--start", type=Path, help="a model to go on with")
    parser.add_argument("--rate", type=float, default=RATE)
    arguments = parser.parse_args()
    train(arguments.minutes, arguments.out, arguments.start, arguments.rate)


if __name__ == "__main__":
    main()
