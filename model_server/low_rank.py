"""What adapters change in the output of a layer: output + (x A) B, and scales of the output, by row.

Rows of an adapter that lie together are a run. Long runs are multiplied one after the other, as plain products of
matrices. With short runs, A and B are gathered for each row, and all rows are multiplied in two batched products,
as in Punica and S-LoRA (https://arxiv.org/abs/2311.03285).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

# Mean length of a run from which runs are multiplied one by one: products of fewer rows take longer than to gather
# A and B (CPU with AMX, bfloat16, 50 tokens a row).
LONG_RUN = 4


@dataclass(frozen=True)
class Run:
    """The rows `start` to `end` (excluded) of a batch, which use the same slot."""

    slot: int
    start: int
    end: int


@dataclass(frozen=True)
class RowSlots:
    """The slot of each row of a batch; slot 0 is the base model.

    Attributes:
        index: (rows,) int64, on the device of the layers.
        runs: the rows in their order.
    """

    index: Tensor
    runs: tuple[Run, ...]

    @classmethod
    def of(cls, slots: Sequence[int], device: torch.device) -> "RowSlots":
        """Return the runs of a batch whose row i uses `slots[i]`."""
        runs, start = [], 0
        for slot, rows in groupby(slots):
            end = start + sum(1 for _ in rows)
            runs.append(Run(slot, start, end))
            start = end
        return cls(torch.tensor(slots, device=device), tuple(runs))


def add_low_rank(output: Tensor, x: Tensor, a: Tensor, b: Tensor, row_slots: RowSlots) -> Tensor:
    """Add (x A) B to the output, in place, with A and B of each row's slot.

    Args:
        output: (rows * k, ..., out), contiguous; the k windows of a row follow each other. It may be a part of the
            batch if all rows use the same slot.
        x: (rows * k, ..., in).
        a: (slots, rank, in), A transposed.
        b: (slots, out, rank), B transposed.

    Returns:
        the output.

    Raises:
        ValueError: rows use different slots, and the output's length is no multiple of their number.
    """
    runs, rows = row_slots.runs, len(row_slots.index)
    flat, flat_x = output.reshape(-1, output.shape[-1]), x.reshape(-1, x.shape[-1])
    if len(runs) == 1:
        return _add_plain(flat, flat_x, a, b, runs[0].slot).view_as(output)
    index = _index_of(x, row_slots)
    if rows < LONG_RUN * len(runs):
        low_rank = torch.bmm(flat_x.view(len(index), -1, x.shape[-1]), a.index_select(0, index).mT)
        by_row = flat.view(len(index), -1, output.shape[-1])
        return by_row.baddbmm_(low_rank, b.index_select(0, index).mT).view_as(output)
    length = len(flat_x) // rows
    for run in runs:
        places = slice(run.start * length, run.end * length)
        _add_plain(flat[places], flat_x[places], a, b, run.slot)
    return flat.view_as(output)


def scale_output(output: Tensor, scales: Tensor, row_slots: RowSlots) -> Tensor:
    """Add gain times the output, and shift, in place, with those of each row's slot.

    Args:
        output: see `add_low_rank`.
        scales: (slots, 2, out), gain and shift.

    Returns:
        the output.

    Raises:
        ValueError: see `add_low_rank`.
    """
    if len(row_slots.runs) == 1:
        gain, shift = scales[row_slots.runs[0].slot].unbind()
        flat = output.reshape(-1, output.shape[-1])
    else:
        index = _index_of(output, row_slots)
        gain, shift = scales.index_select(0, index).unsqueeze(2).unbind(1)
        flat = output.reshape(len(index), -1, output.shape[-1])
    return flat.addcmul_(flat, gain).add_(shift).view_as(output)


def _index_of(x: Tensor, row_slots: RowSlots) -> Tensor:
    """(len(x),): the slot of each window of the rows."""
    rows = len(row_slots.index)
    if len(x) % rows:
        raise ValueError(f"{len(x)} rows where {rows} have adapters")
    return row_slots.index.repeat_interleave(len(x) // rows)


def _add_plain(output: Tensor, x: Tensor, a: Tensor, b: Tensor, slot: int) -> Tensor:
    """Add the product of all rows with A and B of one slot, in place."""
    return output.addmm_(x @ a[slot].T, b[slot].T) if slot else output
