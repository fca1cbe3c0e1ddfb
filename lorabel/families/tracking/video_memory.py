"""Follows boxes from one frame of a video to the others with a model that remembers what it has seen.

SAM 2 (https://arxiv.org/abs/2408.00714) and EdgeTAM (https://arxiv.org/abs/2501.07256) of transformers: a frame is
compared with the frame of the boxes and with the last few frames. What older frames have left is dropped, so
memory does not grow with the video.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor
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
        self._forget(index)
        self._added += 1
        logits, scores = output.pred_masks[:, 0].float().cpu(), output.object_score_logits.flatten().tolist()
        return [Seen(mask, score) for mask, score in zip(logits, scores, strict=True)]

    @property
    def _index(self) -> int:
        """The number of the next frame, as the model counts."""
        return self._total - 1 - self._added if self._is_backwards else self._added

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
