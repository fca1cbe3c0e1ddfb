"""Follows boxes from one frame of a video to the others with a model that remembers what it has seen.

SAM 2 (https://arxiv.org/abs/2408.00714) and EdgeTAM (https://arxiv.org/abs/2501.07256) of transformers: a frame is
compared with the frame of the boxes and with the last few frames. What older frames have left is dropped, so
memory does not grow with the video.

Each thing is followed by itself, so two may end up as the same one. Things that were drawn apart share no place: a
place belongs to the thing of which the model is surer, also in what is remembered, as with SAM 2's
`non_overlap_masks_for_mem_enc`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional
from transformers import EdgeTamVideoModel, Sam2VideoModel
from transformers.models.edgetam_video.modeling_edgetam_video import EdgeTamVideoInferenceSession
from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

from lorabel.space_contracts import Corners

VideoModel: TypeAlias = Sam2VideoModel | EdgeTamVideoModel
# Labels of the two corners of a box among the points of a prompt.
LEFT_TOP, RIGHT_BOTTOM = 2, 3
# What is needed of an output only while its frame is computed: 4 MB at a side of 1024 pixels.
UNUSED_OUTPUTS = ("high_res_masks", "pred_masks")
MEMORIES = ("maskmem_features", "maskmem_pos_enc")
# Part of the smaller of two boxes that may be in the other one if they were drawn apart. More of it is in boxes of
# things that are parts of each other, or of a thing that two people have drawn.
MOST_SHARED = 0.25
# Logit of a place that belongs to another thing, as in SAM 2.
OTHERS_LOGIT = -10.0


class _BoundedSam2(Sam2VideoInferenceSession):  # type: ignore[misc] # untyped in transformers
    """A session in which frames come and go.

    Attributes:
        total: frames of the whole video, by which the model tells how far back it may look.
    """

    total = 0

    @property
    def num_frames(self) -> int:
        """All frames, not only those that are in memory."""
        return self.total


class _BoundedEdgeTam(EdgeTamVideoInferenceSession):  # type: ignore[misc] # untyped in transformers
    """As `_BoundedSam2`, for EdgeTAM."""

    total = 0

    @property
    def num_frames(self) -> int:
        """All frames, not only those that are in memory."""
        return self.total


@dataclass(frozen=True)
class Seen:
    """A thing in a frame.

    Args:
        logits: (height, width) of its mask.
        score: logit of whether it is seen at all.
    """

    logits: Tensor
    score: float

    @property
    def corners(self) -> Corners | None:
        """The upright box around the mask; None if the thing is not seen."""
        is_inside = self.logits > 0
        if self.score <= 0 or not bool(is_inside.any()):
            return None
        height, width = is_inside.shape
        columns, rows = is_inside.any(dim=0).nonzero(), is_inside.any(dim=1).nonzero()
        left, right = int(columns[0]) / width, (int(columns[-1]) + 1) / width
        top, bottom = int(rows[0]) / height, (int(rows[-1]) + 1) / height
        return left, top, right, bottom


class VideoMemory:
    """Follows the boxes of one frame through the frames after it, or before it. Not thread-safe.

    Args:
        boxes: in the first frame that is added.
        total: frames that will be added.
        is_backwards: whether each frame comes before the last one in the video.
    """

    def __init__(self, model: VideoModel, boxes: Sequence[Corners], total: int, is_backwards: bool) -> None:
        self._model, self._total, self._is_backwards = model, total, is_backwards
        self._added = 0
        self._are_apart = _are_apart(boxes).to(model.device)
        kind = _BoundedEdgeTam if isinstance(model, EdgeTamVideoModel) else _BoundedSam2
        self._session: Any = kind(
            inference_device=model.device, inference_state_device=model.device, dtype=model.dtype
        )
        self._session.total = total
        side = int(model.config.prompt_encoder_config.image_size)
        labels = torch.tensor([[[LEFT_TOP, RIGHT_BOTTOM]]], dtype=torch.int32)
        for number, corners in enumerate(boxes):
            points = torch.tensor(corners).reshape(1, 1, 2, 2) * side - 0.5  # places of pixels, see `Segmenter`
            thing = self._session.obj_id_to_idx(number)
            self._session.add_point_inputs(thing, self._index, {"point_coords": points, "point_labels": labels})
        self._session.obj_with_new_inputs = list(range(len(boxes)))

    @torch.inference_mode()
    def add(self, pixels: Tensor) -> list[Seen]:
        """Find the things in the next frame.

        Args:
            pixels: (3, side, side) float32, normalised, on the model's device.
        """
        index = self._index
        self._session.add_new_frame(pixels, index)
        output = self._model(self._session, frame_idx=index, reverse=self._is_backwards)
        masks, scores = output.pred_masks, output.object_score_logits
        if self._added:  # in the first frame the boxes say what is whose
            masks = self._without_others(masks)
            for thing in (masks != output.pred_masks).flatten(1).any(dim=1).nonzero().flatten().tolist():
                self._remember(thing, index, masks[thing : thing + 1], scores[thing].reshape(1, 1))
        self._forget(index)
        self._added += 1
        logits = masks[:, 0].float().cpu()
        return [Seen(mask, score) for mask, score in zip(logits, scores.flatten().tolist(), strict=True)]

    @property
    def _index(self) -> int:
        """The number of the next frame, as the model counts."""
        return self._total - 1 - self._added if self._is_backwards else self._added

    def _without_others(self, masks: Tensor) -> Tensor:
        """(things, 1, height, width): masks without the places at which the model is surer of a thing apart.

        Of things of which it is as sure, the first has the place.
        """
        own, others = masks, masks[None, :, 0]
        is_others = (others > own) | ((others == own) & self._are_apart.tril(-1)[..., None, None])
        is_others &= self._are_apart[..., None, None]
        return torch.where(is_others.any(dim=1, keepdim=True), masks.clamp(max=OTHERS_LOGIT), masks)

    def _remember(self, thing: int, index: int, mask: Tensor, score: Tensor) -> None:
        """Remember this mask of a thing in a frame in place of the one that was found.

        Args:
            mask: (1, 1, height, width) logits.
            score: (1, 1) logit of whether it is seen.
        """
        side = int(self._model.config.prompt_encoder_config.image_size)
        large = functional.interpolate(mask.float(), (side, side), mode="bilinear", align_corners=False)
        features, _ = self._model._prepare_vision_features(self._session, index, 1)
        memory = self._model._encode_new_memory(features[-1], large.to(mask.dtype), score, False)
        of_frame = self._session.output_dict_per_obj[thing]["non_cond_frame_outputs"][index]
        of_frame.update(zip(MEMORIES, memory, strict=True))

    def _forget(self, newest: int) -> None:
        """Drop everything that no later frame is compared with."""
        del self._session.processed_frames[newest]
        config = self._model.config
        for outputs in self._session.output_dict_per_obj.values():
            of_frames = outputs["non_cond_frame_outputs"]
            for of_frame in (*outputs["cond_frame_outputs"].values(), *of_frames.values()):
                for name in UNUSED_OUTPUTS:
                    of_frame.pop(name, None)
            for index in list(of_frames):
                if abs(index - newest) >= config.num_maskmem:
                    for name in MEMORIES:
                        of_frames[index].pop(name, None)
                if abs(index - newest) >= max(config.num_maskmem, config.max_object_pointers_in_encoder):
                    del of_frames[index]


def _are_apart(boxes: Sequence[Corners]) -> Tensor:
    """(things, things) bool: whether hardly anything of either box is in the other."""
    corners = torch.tensor(boxes)
    sides = torch.minimum(corners[:, None, 2:], corners[None, :, 2:]) - torch.maximum(
        corners[:, None, :2], corners[None, :, :2]
    )
    areas = (corners[:, 2:] - corners[:, :2]).prod(dim=1)
    return sides.clamp(min=0).prod(dim=2) < MOST_SHARED * torch.minimum(areas[:, None], areas[None, :])
