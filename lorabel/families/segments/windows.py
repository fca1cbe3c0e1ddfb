"""The windows of a recording, and what is right about each of them. NumPy only, so that heads are fitted with it.

The middle of window i is at `i * step_s`, from the first moment of the recording to its last. A window of a sound
stands for the cell of `step_s` around its middle; it is longer, and overlaps its neighbours. That of a video is
the frame that is shown then.
"""

import numpy as np

from lorabel.contracts import Modality
from lorabel.families.encoders.heads.linear_head import Array
from lorabel.time_contracts import SegmentsInput, SegmentTarget

# What a float may be off by.
TINY_S = 1e-6


def count_windows(read_s: float, step_s: float) -> int:
    """Return how many windows a recording has of which so many seconds are read."""
    return int((read_s + TINY_S) / step_s) + 1


def window_truth(question: SegmentsInput, target: SegmentTarget, windows: int) -> Array:
    """Return (windows, labels) in [0, 1]: how much of each window has each label.

    For a sound: the share of the window's cell that segments cover. A frame of a video is in a segment or not.
    """
    labels, step_s = len(question.labels), question.step_s
    if question.contents[0].modality != Modality.VIDEO:
        return window_shares(target, windows, labels, step_s)
    moments, truth = step_s * np.arange(windows) + TINY_S, np.zeros((windows, labels), np.float32)
    for start, end, label in target.segments:
        truth[(start <= moments) & (moments < end), label] = 1.0
    return truth


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
