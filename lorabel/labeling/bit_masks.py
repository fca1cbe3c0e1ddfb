"""Masks as arrays, runs, Label Studio's run-length encoding (RLE), and polygons.

The RLE is that of `rle-pack` (https://github.com/thi-ng/umbrella/tree/develop/packages/rle-pack), over the four
channels of RGBA. `label_studio_sdk.converter.brush` writes and reads it too, but it takes 0.3 s for a mask of
1080p, and it allocates whatever size a stored annotation names; so it is only what the tests compare with.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lorabel.errors import MissingTargetError

BitMask = NDArray[np.bool_]
"""(height, width): True inside the mask."""

CHANNELS = 4
WORD_BITS = 8
SIZE_BITS = (3, 4, 8, 16)
# 4 bytes each while an annotation is read.
MOST_PIXELS = 100_000_000
# An alpha from this value on is inside the mask; at the edges of strokes the editor draws smaller ones.
INSIDE_ALPHA = 128
# The longer side of masks that are drawn small, about half of the picture's on a page.
DRAWN_SIDE = 200


def runs_of(mask: BitMask) -> tuple[int, ...]:
    """Return the lengths of the runs, see `lorabel.mask_contracts.Runs`."""
    flat = mask.ravel()
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    ends = np.concatenate([[0] if flat.size and flat[0] else [], changes, [flat.size]])
    return tuple(np.diff(ends, prepend=0).astype(int).tolist())


def mask_of(runs: Sequence[int], width: int, height: int) -> BitMask:
    """Return the mask with these runs.

    Raises:
        ValueError: the runs do not fill the picture.
    """
    if sum(runs) != width * height:
        raise ValueError(f"the runs have {sum(runs)} pixels; the picture has {width} x {height}")
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)


def encode(runs: Sequence[int]) -> list[int]:
    """Return the RLE of a mask, as bytes: all channels of its pixels are 255, of the others 0."""
    header = [f"{CHANNELS * sum(runs):032b}", f"{WORD_BITS - 1:05b}", *(f"{bits - 1:04b}" for bits in SIZE_BITS)]
    packets = [
        _packet(length, index % 2 == 1)
        for index, run in enumerate(runs)
        for length in _pieces(CHANNELS * run, 2 ** SIZE_BITS[-1])
    ]
    bits = np.frombuffer("".join(header + packets).encode(), np.uint8) - ord("0")
    encoded: list[int] = np.packbits(bits).tolist()
    return encoded


def decode(rle: Any, width: int, height: int) -> BitMask:
    """Return the mask of an RLE from an annotation, which may be anything.

    Raises:
        MissingTargetError: it is no RLE of a picture of this size.
    """
    values, lengths = _runs_in(rle, width, height)
    pixels = np.repeat(values, lengths).reshape(height, width, CHANNELS)
    inside: BitMask = pixels[..., CHANNELS - 1] >= INSIDE_ALPHA
    return inside


def decode_small(rle: Any, width: int, height: int, longest_side: int) -> tuple[BitMask, int]:
    """Return a small mask, for a drawing, without computing the large one.

    Args:
        longest_side: of the small mask, at most, in pixels.

    Returns:
        The mask, and how many pixels of the picture, in each direction, one of its pixels stands for.

    Raises:
        MissingTargetError: it is no RLE of a picture of this size.
    """
    values, lengths = _runs_in(rle, width, height)
    step = math.ceil(max(width, height) / longest_side)
    rows, columns = (np.minimum(np.arange(0, side, step) + step // 2, side - 1) for side in (height, width))
    places = CHANNELS * (rows[:, None] * width + columns) + CHANNELS - 1
    inside: BitMask = values[np.searchsorted(np.cumsum(lengths), places, side="right")] >= INSIDE_ALPHA
    return inside, step


def fill_polygon(points: Sequence[tuple[float, float]], width: int, height: int) -> BitMask:
    """Return the mask of a polygon: the pixels whose centres are inside it (even-odd rule).

    Args:
        points: its corners, in pixels from the upper left corner of the picture; at least 3.
    """
    crossings = np.zeros((height, width + 1), np.uint8)
    for (x, y), (next_x, next_y) in zip(points, [*points[1:], points[0]], strict=True):
        low, high = (math.ceil(min(max(edge, 0), height) - 0.5) for edge in sorted((y, next_y)))
        rows = np.arange(low, high)
        if len(rows):
            at = x + (rows + 0.5 - y) * (next_x - x) / (next_y - y)
            crossings[rows, np.ceil(at.clip(0, width) - 0.5).astype(int)] ^= 1
    filled: BitMask = np.bitwise_xor.accumulate(crossings, axis=1)[:, :width].astype(bool)
    return filled


def bounds(mask: BitMask) -> tuple[slice, slice]:
    """Return the rows and columns of the smallest upright box around a mask that is not empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def box_of(mask: BitMask) -> tuple[float, float, float, float]:
    """Return (left, top, right, bottom) of the pixels of a mask that is not empty, as fractions of the picture."""
    height, width = mask.shape
    rows, columns = bounds(mask)
    return columns.start / width, rows.start / height, columns.stop / width, rows.stop / height


def inner_point(mask: BitMask) -> tuple[float, float]:
    """Return the place in a mask that is not empty where a person would click: as far from its edge as possible.

    Returns:
        (x, y) as fractions of the picture.
    """
    from scipy.ndimage import distance_transform_edt  # slow to import; the backend never needs it

    height, width = mask.shape
    rows, columns = bounds(mask)
    # Distances take 33 bytes for each pixel, so only those within the mask's box are computed.
    depth = distance_transform_edt(np.pad(mask[rows, columns], 1))[1:-1, 1:-1]
    y, x = np.unravel_index(int(np.argmax(depth)), depth.shape)
    return (columns.start + float(x) + 0.5) / width, (rows.start + float(y) + 0.5) / height


def outline(mask: BitMask, tolerance_px: float) -> list[tuple[float, float]]:
    """Return the outer outline of the largest connected part of a mask as a polygon. Holes are left out.

    Args:
        tolerance_px: the farthest that the outline may be from the polygon, in pixels.

    Returns:
        (x, y) of the corners, in pixels from the upper left corner of the picture; none if the mask is empty.
    """
    ring = max((np.array(ring, float) for ring in rings(mask)), key=_area, default=None)
    if ring is None:
        return []
    simplified = _simplified(ring, tolerance_px)
    corners = simplified if len(simplified) >= 3 else ring
    return [(float(x), float(y)) for x, y in corners]


def rings(mask: BitMask) -> Iterator[list[tuple[int, int]]]:
    """Yield the closed lines between a mask and what is outside: clockwise around parts, else around holes.

    Only their corners are given, (x, y) in pixels from the upper left corner of the picture. Pixels that touch at
    a corner only belong to different parts.
    """
    inside = np.pad(mask, 1)
    # The edges of pixels by direction: right, down, left, up, and where each begins beside its pixel, as (y, x).
    neighbours = (inside[:-2, 1:-1], inside[1:-1, 2:], inside[2:, 1:-1], inside[1:-1, :-2])
    starts_at = ((0, 0), (0, 1), (1, 1), (1, 0))
    directions: dict[tuple[int, int], list[int]] = {}
    for direction, (neighbour, (down, right)) in enumerate(zip(neighbours, starts_at, strict=True)):
        for y, x in np.argwhere(mask & ~neighbour).tolist():
            directions.setdefault((x + right, y + down), []).append(direction)
    moves = ((1, 0), (0, 1), (-1, 0), (0, -1))
    while directions:
        start = x, y = next(iter(directions))
        ring: list[tuple[int, int]] = []
        last = None
        while directions.get((x, y)):
            choices = directions[x, y]
            # Where two parts touch, the right turn stays at the same part.
            turn = last if last is not None else choices[0] - 1
            direction = (turn + 1) % 4 if (turn + 1) % 4 in choices else choices[0]
            choices.remove(direction)
            if not choices:
                del directions[x, y]
            if direction != last:
                ring.append((x, y))
            last = direction
            x, y = x + moves[direction][0], y + moves[direction][1]
            if (x, y) == start and not directions.get(start):
                break
        yield ring


def _pieces(length: int, most: int) -> Iterator[int]:
    for start in range(0, length, most):
        yield min(most, length - start)


def _packet(length: int, is_inside: bool) -> str:
    """A run of up to 65536 equal values, as the digits of its bits."""
    index = next(index for index, bits in enumerate(SIZE_BITS) if length <= 2**bits)
    return f"1{index:02b}{length - 1:0{SIZE_BITS[index]}b}{'1' * WORD_BITS if is_inside else '0' * WORD_BITS}"


def _runs_in(rle: Any, width: int, height: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The values of the channels of an RLE's pixels, one after the other, and how often each is repeated.

    Raises:
        MissingTargetError: it is no RLE of a picture of this size.
    """
    is_list = isinstance(rle, list) and all(type(byte) is int and 0 <= byte < 256 for byte in rle)
    if not is_list or not 0 < width * height <= MOST_PIXELS:
        raise MissingTargetError(f"there is no RLE of a picture of {width} x {height} pixels")
    reader = _BitReader(bytes(rle))
    count, expected = reader.read(32), CHANNELS * width * height
    if count != expected:
        raise MissingTargetError(
            f"the RLE has {count} values; a picture of {width} x {height} pixels has {expected}"
        )
    word_bits, size_bits = reader.read(5) + 1, [reader.read(4) + 1 for _ in range(4)]
    if word_bits != WORD_BITS:
        raise MissingTargetError(f"the RLE has words of {word_bits} bits, expected {WORD_BITS}")
    values: list[int] = []
    lengths: list[int] = []
    start = 0
    while start < count:
        is_run = reader.read(1)
        length = min(count - start, 1 + reader.read(size_bits[reader.read(2)]))
        if is_run:
            values.append(reader.read(WORD_BITS))
            lengths.append(length)
        else:
            values += reader.read_bytes(length).tolist()
            lengths += [1] * length
        start += length
    return np.array(values, np.uint8), np.array(lengths, np.int64)


class _BitReader:
    """Reads numbers of some bits, the highest bit first."""

    def __init__(self, data: bytes) -> None:
        self._data, self._bits, self._position = data, np.unpackbits(np.frombuffer(data, np.uint8)), 0

    def read(self, count: int) -> int:
        start, self._position = self._position, self._take(count)
        first, last = start // 8, (start + count + 7) // 8
        number = int.from_bytes(self._data[first:last]) >> (8 * last - start - count)
        return number & ((1 << count) - 1)

    def read_bytes(self, count: int) -> NDArray[np.uint8]:
        start, self._position = self._position, self._take(8 * count)
        return np.packbits(self._bits[start : self._position])

    def _take(self, count: int) -> int:
        if self._position + count > len(self._bits):
            raise MissingTargetError("the RLE is cut off")
        return self._position + count


def _area(ring: NDArray[np.float64]) -> float:
    """Of a ring that is clockwise on the screen; negative if it is not."""
    x, y = ring.T
    return float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2


def _simplified(ring: NDArray[np.float64], tolerance_px: float) -> NDArray[np.float64]:
    """Ramer, Douglas and Peucker's method (https://doi.org/10.3138/FM57-6770-U75U-7727) on a ring.

    The ring is cut at its first corner and at the corner farthest from it.
    """
    far = int(np.argmax(((ring - ring[0]) ** 2).sum(axis=1)))
    closed = np.concatenate([ring, ring[:1]])
    is_kept = np.zeros(len(closed), bool)
    is_kept[[0, far]] = True
    pieces = [(0, far), (far, len(ring))]
    while pieces:
        first, last = pieces.pop()
        if last - first < 2:
            continue
        distances = _distances(closed[first + 1 : last], closed[first], closed[last])
        farthest = int(np.argmax(distances))
        if distances[farthest] > tolerance_px:
            middle = first + 1 + farthest
            is_kept[middle] = True
            pieces += [(first, middle), (middle, last)]
    corners: NDArray[np.float64] = ring[is_kept[:-1]]
    return corners


def _distances(
    points: NDArray[np.float64], start: NDArray[np.float64], end: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Of points from the line between two others."""
    along = end - start
    length = float(np.hypot(*along))
    if length == 0:
        from_start: NDArray[np.float64] = np.hypot(*(points - start).T)
        return from_start
    offsets = points - start
    across: NDArray[np.float64] = np.abs(offsets[:, 0] * along[1] - offsets[:, 1] * along[0]) / length
    return across
