"""Masks against the SDK's converter, and against pixels that the tests know."""

import tracemalloc
from typing import Any

import numpy as np
import pytest
from label_studio_sdk.converter.brush import decode_rle, encode_rle, mask2rle

from lorabel.errors import MissingTargetError
from lorabel.evaluation.mask_metrics import boundary_f
from lorabel.labeling.bit_masks import (
    BitMask,
    box_of,
    decode,
    decode_small,
    encode,
    fill_polygon,
    inner_point,
    mask_of,
    outline,
    runs_of,
)
from lorabel.mask_contracts import box_of_runs

RNG = np.random.default_rng(0)


def disc(width: int, height: int, x: float, y: float, radius: float) -> BitMask:
    rows, columns = np.mgrid[:height, :width] + 0.5
    inside: BitMask = np.hypot(columns - x, rows - y) < radius
    return inside


def iou(first: BitMask, second: BitMask) -> float:
    return float((first & second).sum() / (first | second).sum())


MASKS = {
    "empty": np.zeros((5, 7), bool),
    "whole picture": np.ones((5, 7), bool),
    "one pixel": np.arange(35).reshape(5, 7) == 17,
    "first pixel": np.arange(35).reshape(5, 7) == 0,
    "last pixel": np.arange(35).reshape(5, 7) == 34,
    "noise": RNG.random((31, 17)) < 0.5,
    "disc": disc(300, 200, 120, 90, 60),
}
EVERY_MASK = pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)


@EVERY_MASK
def test_a_mask_comes_back_from_its_runs(mask: BitMask) -> None:
    assert sum(runs_of(mask)) == mask.size
    assert np.array_equal(mask_of(runs_of(mask), mask.shape[1], mask.shape[0]), mask)


@EVERY_MASK
def test_the_sdk_reads_our_rle_and_we_read_the_sdks(mask: BitMask) -> None:
    height, width = mask.shape
    by_sdk = decode_rle(encode(runs_of(mask))).reshape(height, width, 4)
    assert np.array_equal(by_sdk, np.repeat(mask[..., None] * np.uint8(255), 4, axis=2))
    assert np.array_equal(decode(mask2rle(mask.astype(np.uint8) * 255), width, height), mask)


def test_a_mask_that_a_person_has_brushed_is_read_from_its_alpha() -> None:
    mask = MASKS["disc"]
    pixels = np.zeros((*mask.shape, 4), np.uint8)
    pixels[mask] = (255, 165, 0, 255)
    assert np.array_equal(decode(encode_rle(pixels.ravel()), 300, 200), mask)


@pytest.mark.parametrize(
    "rle", [None, "x", [1, 2], [300], [True], [0.5], encode((10,)), encode((34,)) + [1], encode((35,))[:6]]
)
def test_what_is_no_rle_of_this_size_is_refused(rle: Any) -> None:
    with pytest.raises(MissingTargetError, match="RLE"):
        decode(rle, 7, 5)


@EVERY_MASK
def test_a_small_mask_that_is_not_smaller_is_the_mask(mask: BitMask) -> None:
    height, width = mask.shape
    small, step = decode_small(mask2rle(mask.astype(np.uint8) * 255), width, height, 300)
    assert step == 1 and np.array_equal(small, mask)


@pytest.mark.parametrize(("width", "height"), [(1600, 1203), (1203, 1600), (1000, 1)])
def test_a_small_mask_is_every_nth_pixel_of_the_mask(width: int, height: int) -> None:
    rows, columns = np.mgrid[:height, :width] + 0.5
    mask = np.hypot((columns / width - 0.4) / 0.3, (rows / height - 0.5) / 0.4) < 1
    small, step = decode_small(encode(runs_of(mask)), width, height, 100)
    assert max(small.shape) <= 100 and step == -(-max(width, height) // 100)
    whole = height // step, width // step
    assert np.array_equal(
        small[: whole[0], : whole[1]], mask[step // 2 :: step, step // 2 :: step][: whole[0], : whole[1]]
    )
    enlarged = small.repeat(step, 0).repeat(step, 1)[:height, :width]
    assert iou(enlarged, mask) > 0.93


def test_a_small_mask_has_what_a_person_has_brushed() -> None:
    pixels = np.zeros((200, 300, 4), np.uint8)
    pixels[50:150, 100:200, 3] = RNG.integers(128, 256, (100, 100))
    small, step = decode_small(encode_rle(pixels.ravel()), 300, 200, 150)
    assert step == 2 and small.sum() == 50 * 50 and small[25:75, 50:100].all()


def test_a_size_that_no_picture_has_is_refused() -> None:
    with pytest.raises(MissingTargetError, match="RLE"):
        decode(encode((35,)), 2**20, 2**20)


@pytest.mark.parametrize("name", ["whole picture", "one pixel", "first pixel", "last pixel"])
def test_the_outline_of_a_rectangle_is_its_corners(name: str) -> None:
    mask = MASKS[name]
    corners = outline(mask, 1.0)
    assert len(corners) == 4
    rows, columns = np.nonzero(mask)
    assert {x for x, _ in corners} == {columns.min(), columns.max() + 1}
    assert {y for _, y in corners} == {rows.min(), rows.max() + 1}
    assert np.array_equal(fill_polygon(corners, 7, 5), mask)


def test_an_outline_is_near_its_mask_and_a_larger_tolerance_has_fewer_corners() -> None:
    mask = MASKS["disc"]
    fine, coarse = outline(mask, 1.0), outline(mask, 5.0)
    assert 3 < len(coarse) < len(fine) < 60
    assert iou(fill_polygon(fine, 300, 200), mask) > 0.97
    for x, y in fine:
        assert abs(np.hypot(x - 120, y - 90) - 60) < 1.5


def test_the_outline_is_of_the_largest_part_and_leaves_holes_out() -> None:
    ring = disc(100, 100, 30, 50, 25) & ~disc(100, 100, 30, 50, 10)
    mask = ring | disc(100, 100, 80, 50, 8)
    assert iou(fill_polygon(outline(mask, 1.0), 100, 100), disc(100, 100, 30, 50, 25)) > 0.95


def test_parts_that_touch_at_a_corner_are_two_parts() -> None:
    mask = np.array([[1, 1, 0], [1, 1, 0], [0, 0, 1]], bool)
    assert sorted(outline(mask, 0.1)) == [(0, 0), (0, 2), (2, 0), (2, 2)]


def test_an_empty_mask_has_no_outline() -> None:
    assert outline(MASKS["empty"], 1.0) == []


def test_a_small_mask_in_a_large_picture_takes_little_memory_to_measure() -> None:
    picture = np.zeros((3000, 4000), bool)
    picture[700:721, 900:941] = True
    tracemalloc.start()
    try:
        place = inner_point(picture)
        figure = boundary_f(picture, picture)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # Of the first of the points that are 11 pixels from the edge.
    assert place == ((910 + 0.5) / 4000, (710 + 0.5) / 3000) and figure == 1
    assert peak < 2 * picture.nbytes


@pytest.mark.parametrize("seed", range(20))
def test_the_box_of_runs_is_that_of_the_mask(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = np.zeros((6, 9), bool)
    top, left = rng.integers(0, 6), rng.integers(0, 9)
    mask[top : top + rng.integers(1, 6), left : left + rng.integers(1, 9)] = rng.random() < 0.8
    mask[rng.integers(6), rng.integers(9)] = True
    assert box_of_runs(runs_of(mask), 9, 6) == pytest.approx(box_of(mask))
