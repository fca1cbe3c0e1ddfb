"""What a vision-language model reads beside tokens: positions, and the features of pictures.

A batch is read in parts of some columns, and a picture may lie in several of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from lorabel.families.generation.pictures import Picture


class Shown(Protocol):
    """What is read of a prepared input."""

    @property
    def prompt(self) -> Sequence[int]:
        """Return all tokens up to where the model writes."""

    @property
    def pictures(self) -> Sequence[Picture]:
        """Return the pictures, in the order of their tokens in the prompt; all have features."""

    @property
    def positions(self) -> Tensor | None:
        """Return the positions (3, tokens) of the prompt's tokens; None if they are 0, 1, 2, ..."""


@dataclass(frozen=True)
class Features:
    """What models of transformers take as the output of their vision part.

    Attributes:
        pooler_output: (placeholders, dim) for each picture.
        deepstack_features: the same for each of the first layers.
    """

    pooler_output: list[Tensor]
    deepstack_features: list[list[Tensor]]


def picture_inputs(rows: Sequence[Shown], mask: Tensor, start: int, placeholder: int) -> dict[str, Any]:
    """Return positions, and features where there are placeholders.

    Args:
        mask: (rows, length) int64: 0 for padding on the left.
        start: the first column that is read now; those before it were read in earlier parts.
        placeholder: see `PictureReader`.
    """
    places = (mask.cumsum(1) - 1).clamp(min=0)[:, start:]
    inputs: dict[str, Any] = {"position_ids": places}
    if any(row.positions is not None for row in rows):
        inputs["position_ids"] = torch.stack(
            [_positions(row, of_row) for row, of_row in zip(rows, places, strict=True)], 1
        )
    if not any(row.pictures for row in rows):
        return inputs
    firsts = mask[:, :start].sum(1).tolist()
    ends = mask.sum(1).tolist()
    parts = [
        part
        for row, first, end in zip(rows, firsts, ends, strict=True)
        if first < len(row.prompt)
        for part in _parts(row, first, end, placeholder)
    ]
    if parts:
        deep = [list(layer) for layer in zip(*(deep for _, deep in parts), strict=True)]
        inputs["mm_encoder_outputs"] = {"image": Features([pooled for pooled, _ in parts], deep)}
    return inputs


def _positions(row: Shown, places: Tensor) -> Tensor:
    """(4, columns): the number of each token, and its positions in time, height and width.

    Args:
        places: (columns,) int64: the number of each token in the row.
    """
    if row.positions is None:
        return places.expand(4, -1)
    positions = row.positions.to(places.device)
    length = positions.shape[1]
    # What is written after the prompt goes on from the largest position in it.
    after = places - length + positions.max() + 1
    in_prompt = positions[:, places.clamp(max=length - 1)]
    return torch.cat([places[None], torch.where(places < length, in_prompt, after)])


def _parts(row: Shown, first: int, end: int, placeholder: int) -> list[tuple[Tensor, tuple[Tensor, ...]]]:
    """The features of each picture of whose placeholders some are in `prompt[first:end]`: of these alone."""
    before = sum(token == placeholder for token in row.prompt[:first])
    after = before + sum(token == placeholder for token in row.prompt[first:end])
    parts, offset = [], 0
    for picture in row.pictures:
        if picture.features is None:
            raise RuntimeError(f"picture {picture.digest} has no features yet")
        count = len(picture.features.pooled)
        begin, stop = max(0, before - offset), min(count, after - offset)
        if begin < stop:
            parts.append(
                (picture.features.pooled[begin:stop], tuple(layer[begin:stop] for layer in picture.features.deep))
            )
        offset += count
    return parts
