"""The windows of a recording, and what is right about each of them. NumPy only, so that heads are fitted with it.

The middle of window i is at `i * step_s`, from the first moment of the recording to its last. A window stands for
the cell of `step_s` around its middle. A window of a sound is longer, and overlaps its neighbours; that of a video
is the frame that is shown then.
"""

import numpy as np

from lorabel.families.encoders.heads.linear_head import Array
from lorabel.time_contracts import SegmentTarget

# What a float may be off by.
TINY_S = 1e-6


def count_windows(read_s: float, step_s: float) -> int:
    """Return how many windows a recording has of which so many seconds are read."""
    return int((read_s + TINY_S) / step_s) + 1


def window_shares(target: SegmentTarget, windows: int, labels: int, step_s: float) -> Array:
    """Return (windows, labels) in [0, 1]: the share of each window's cell that segments of a label cover.

    The first cell is the half after the first moment: nothing is before it.
    """
    middles = step_s * np.arange(windows)
    begins, ends = np.maximum(0.0, middles - step_s / 2), middles + step_s / 2
    shares = np.zeros((windows, labels), np.float32)
    for start, end, label in target.segments:
        covered = np.minimum(ends, end) - np.maximum(begins, start)
        shares[:, label] += np.maximum(0.0, covered / (ends - begins)).astype(np.float32)
    return np.minimum(shares, 1.0)
