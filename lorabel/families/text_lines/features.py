"""Features of the lines of a picture: where a line stands, what its text is like, and what stands beside it.

They are computed from the lines alone, and take no model. Two receipts of one shop differ in all their words and
figures; what their totals have in common is that they stand low and at the right, consist of digits, and have the
word "Total" beside them.
"""

import re
import zlib
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from lorabel.space_contracts import TextLine

Array = NDArray[np.float32]

# Numbers of a line's place and text, see `_numbers`.
NUMBERS = 36
# Slots that the parts of a line's own text are hashed to, and those of the text beside it.
OWN_SLOTS, NEIGHBOUR_SLOTS = 256, 96
# The lines beside a line: to its left, above and below it.
NEIGHBOURS = 3
FEATURE_COUNT = NUMBERS + OWN_SLOTS + NEIGHBOURS * NEIGHBOUR_SLOTS
# Slots along the height and along the width of the picture.
PLACES = 6
LONGEST_TEXT = 200
WORD = re.compile(r"[^\W_]+")


def line_features(lines: Sequence[TextLine]) -> Array:
    """Return (lines, FEATURE_COUNT) float32.

    Args:
        lines: all lines of a picture, in reading order.
    """
    features = np.zeros((len(lines), FEATURE_COUNT), np.float32)
    if not lines:
        return features
    corners = np.array([line.corners for line in lines])
    features[:, :NUMBERS] = _numbers(lines, corners)
    features[:, NUMBERS : NUMBERS + OWN_SLOTS] = [_hashed(line.text, OWN_SLOTS) for line in lines]
    hashed = np.array([_hashed(line.text, NEIGHBOUR_SLOTS) for line in lines])
    for number, neighbours in enumerate(_neighbours(corners)):
        start = NUMBERS + OWN_SLOTS + number * NEIGHBOUR_SLOTS
        has_neighbour = neighbours >= 0
        features[has_neighbour, start : start + NEIGHBOUR_SLOTS] = hashed[neighbours[has_neighbour]]
    return features


def _numbers(lines: Sequence[TextLine], corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """(lines, NUMBERS): each between about 0 and 1."""
    left, top, right, bottom = corners.T
    heights = bottom - top
    order = np.arange(len(lines)) / max(1, len(lines) - 1)
    median = float(np.median(heights))
    columns = [
        left,
        right,
        (top + bottom) / 2,
        right - left,
        np.clip(heights / max(median, 1e-6), 0, 3) / 3,
        order,
        order == 0,
        order == 1,
        np.clip((left - left.min()) * 4, 0, 1),
        np.clip((right.max() - right) * 4, 0, 1),
        *_soft_slots((top + bottom) / 2, PLACES),
        *_soft_slots((left + right) / 2, PLACES),
        *np.array([_numbers_of_text(line.text) for line in lines]).T,
    ]
    return np.stack(columns, axis=1)


def _soft_slots(positions: NDArray[np.float64], slots: int) -> NDArray[np.float64]:
    """(slots, lines): how near each position is to the middle of each slot."""
    middles = (np.arange(slots) + 0.5) / slots
    return np.clip(1 - np.abs(positions[None] - middles[:, None]) * slots, 0, 1)


def _numbers_of_text(text: str) -> list[float]:
    characters = text.replace(" ", "") or " "
    count = len(characters)
    digits = sum(character.isdigit() for character in characters)
    letters = sum(character.isalpha() for character in characters)
    upper = sum(character.isupper() for character in characters)
    return [
        digits / count,
        letters / count,
        upper / max(1, letters),
        (count - digits - letters) / count,
        min(1.0, count / 40),
        min(1.0, len(text.split()) / 8),
        float(characters[0].isdigit()),
        float(characters[-1].isdigit()),
        float(characters[-1] == ":"),
        float(bool(re.search(r"\d[.,]\d\d\b", text))),
        float(bool(re.search(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}", text))),
        float(bool(re.search(r"\d:\d\d", text))),
        float(bool(re.search(r"[$€£¥]|\b(?:EUR|USD|GBP|CHF)\b", text))),
        float("@" in text or "www" in text.lower()),
    ]


def _hashed(text: str, slots: int) -> Array:
    """(slots,) of length 1, or zeros: words, their shapes, and sequences of three characters, hashed."""
    vector = np.zeros(slots, np.float32)
    for part in _parts(text[:LONGEST_TEXT]):
        code = zlib.crc32(part.encode("utf-8", "replace"))
        vector[code % slots] += 1.0 if code >> 31 else -1.0
    length = float(np.linalg.norm(vector))
    return vector / length if length else vector


def _parts(text: str) -> Iterator[str]:
    """Parts of a text. A digit counts as any other digit."""
    lowered = re.sub(r"\d", "0", text.casefold())
    for word in WORD.findall(lowered):
        yield f"w{word}"
    yield "s" + re.sub(r"[^\W\d_]+", "a", re.sub(r"0+", "0", lowered))
    padded = f" {lowered} "
    for start in range(len(padded) - 2):
        yield padded[start : start + 3]


def _neighbours(corners: NDArray[np.float64]) -> tuple[NDArray[np.int64], ...]:
    """For each line the nearest line to its left, above and below it; -1 if there is none."""
    left, top, right, bottom = corners.T
    middles_x, middles_y, heights = (left + right) / 2, (top + bottom) / 2, bottom - top
    is_same_row = np.abs(middles_y[:, None] - middles_y[None]) < 0.6 * np.maximum(heights[:, None], heights[None])
    shares_column = (np.minimum(right[:, None], right[None]) - np.maximum(left[:, None], left[None])) > 0
    to_left = np.where(is_same_row & (middles_x[None] < middles_x[:, None]), left[:, None] - right[None], np.inf)
    gaps = middles_y[:, None] - middles_y[None]
    above = np.where(~is_same_row & shares_column & (gaps > 0), gaps, np.inf)
    below = np.where(~is_same_row & shares_column & (gaps < 0), -gaps, np.inf)
    return tuple(np.where(np.isfinite(far.min(1)), far.argmin(1), -1) for far in (to_left, above, below))
