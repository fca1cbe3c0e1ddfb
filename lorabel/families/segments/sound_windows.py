"""The windows of a sound, and what is right about each of them. NumPy only, so that heads are fitted with it.

The middle of window i is at `i * HOP_S`, from the first moment of the sound to its last. A window overlaps its
neighbours, and stands for the cell of HOP_S around its middle.
"""

import numpy as np

from lorabel.families.encoders.heads.linear_head import Array
from lorabel.time_contracts import SegmentTarget

WINDOW_S = 1.0
HOP_S = 0.25
# What a float may be off by.
TINY_S = 1e-6


def count_windows(read_s: float) -> int:
    """Return how many windows a sound has of which so many seconds are read."""
    return int((read_s + TINY_S) / HOP_S) + 1


def window_shares(target: SegmentTarget, windows: int, labels: int) -> Array:
    """Return (windows, labels) in [0, 1]: the share of each window's cell that segments of a label cover.

    The first cell is the half after the first moment: nothing is before it.
    """
    middles = HOP_S * np.arange(windows)
    begins, ends = np.maximum(0.0, middles - HOP_S / 2), middles + HOP_S / 2
    shares = np.zeros((windows, labels), np.float32)
    for start, end, label in target.segments:
        covered = np.minimum(ends, end) - np.maximum(begins, start)
        shares[:, label] += np.maximum(0.0, covered / (ends - begins)).astype(np.float32)
    return np.minimum(shares, 1.0)
