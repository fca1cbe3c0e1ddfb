"""Features of pairs of regions, from which a head tells how the second is related to the first. NumPy only.

They are the two regions' own features, which labels they have, where the second lies from the first, which other
regions are nearer, and, in a text, what stands between them. Nearness counts for each pair of labels by itself:
what a person owns may be the next thing, and whom she knows any other person.

    Ada, who met Bob, owns a boat and a car.    Ada -> boat: ", who met <Person>, owns a"
"""

import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from lorabel.families.relations.pairs import Pair, middles
from lorabel.labeling.words import find_words
from lorabel.relation_contracts import PictureRelationsInput, RelatedRegion, RelationsInput

Array = NDArray[np.float32]

# Dimensions that the features of a region, or of the words between two, are projected to.
PROJECTED = 48
# Slots for pairs of labels. More pairs share slots.
LABEL_SLOTS = 64
# Slots for what stands between two spans and beside them, and for what each of two lines of text says.
CONTEXT_SLOTS, TEXT_SLOTS = 256, 64
# Numbers of a pair that do not depend on its labels, and flags that count for each pair of labels.
SPAN_NUMBERS, PICTURE_NUMBERS = 14, 34
SPAN_FLAGS, PICTURE_FLAGS = 6, 13
# Where more words stand between two regions, only as many at each end are read.
READ_WORDS = 6
# Places along an axis, in mean sizes of the two regions.
PLACES = np.array([-3.0, -1.5, -0.7, 0.0, 0.7, 1.5, 3.0])
SENTENCE_ENDS = re.compile(r"[.!?\n]")


def feature_width(question: RelationsInput, dim: int) -> int:
    """Return the number of features of a pair.

    Args:
        dim: of the rows that `pair_features` takes.
    """
    slots = _label_slots(question)
    if isinstance(question, PictureRelationsInput):
        return 2 * PROJECTED + slots * (1 + PICTURE_FLAGS) + PICTURE_NUMBERS + 2 * TEXT_SLOTS
    return 3 * PROJECTED + slots * (1 + SPAN_FLAGS) + SPAN_NUMBERS + CONTEXT_SLOTS


def pair_features(question: RelationsInput, rows: Array, pairs: Sequence[Pair]) -> Array:
    """Return (pairs, `feature_width`) float32.

    Args:
        rows: (words, dim) of the text, or (regions, dim) of the regions of a picture; each of length 1 about.
    """
    if not pairs:
        return np.zeros((0, feature_width(question, rows.shape[1])), np.float32)
    if isinstance(question, PictureRelationsInput):
        blocks = _of_picture(question, rows, pairs)
    else:
        blocks = _of_text(question, rows, pairs)
    return np.concatenate(blocks, axis=1).astype(np.float32)


def _of_text(question: RelationsInput, rows: Array, pairs: Sequence[Pair]) -> list[NDArray[np.float64]]:
    text, regions = question.contents[0].text or "", question.regions
    words = find_words(text)[: len(rows)]
    places = [_word_range(words, region) for region in regions]
    tokens = _tokens(text, words, places, question)
    sums = np.concatenate(
        [np.zeros((1, PROJECTED)), np.cumsum(rows[: len(words)] @ _projection(rows.shape[1]), 0)]
    )
    own = np.array([_mean(sums, *place) for place in places])
    between = [_gap(places[first], places[second]) for first, second in pairs]
    among = [
        [
            other
            for other, place in enumerate(places)
            if gap[0] <= place[0] and place[1] <= gap[1] and place[0] < gap[1]
        ]
        for gap in between
    ]
    ranks = _ranks(regions)
    flags, numbers, contexts = [], [], []
    for (first, second), (start, end), others in zip(pairs, between, among, strict=True):
        labels = (regions[first].label, regions[second].label)
        is_forward = places[first] <= places[second]
        of_first, of_second = (sum(regions[other].label == label for other in others) for label in labels)
        near, back = ranks[first, second], ranks[second, first]
        flags.append((is_forward, not others, near == 0, back == 0, near == back == 0, not of_first + of_second))
        gap, length = _gap_text(text, words, start, end), end - start
        numbers.append(
            (
                is_forward,
                not is_forward,
                not others,
                len(others) == 1,
                len(others) > 1,
                not of_first,
                not of_second,
            )
            + (near == 0, back == 0, near == 1, back == 1, 1 / (1 + length), np.log1p(length) / 4)
            + (float(bool(SENTENCE_ENDS.search(gap))),)
        )
        contexts.append(_context(tokens, places[first], places[second], (start, end), is_forward=is_forward))
    firsts, seconds = np.array(pairs).T
    return [
        own[firsts],
        own[seconds],
        np.array([_mean(sums, *gap) for gap in between]),
        _by_labels(question, pairs, np.array(flags, float)),
        np.array(numbers, float),
        np.array(contexts),
    ]


def _of_picture(question: RelationsInput, rows: Array, pairs: Sequence[Pair]) -> list[NDArray[np.float64]]:
    regions = question.regions
    own = rows[: len(regions)] @ _projection(rows.shape[1])
    texts = np.array([_hashed(_characters(region.text), TEXT_SLOTS) for region in regions])
    corners = np.array([region.corners or (0.0, 0.0, 1.0, 1.0) for region in regions])
    firsts, seconds = np.array(pairs).T
    numbers, ways = _geometry(corners[firsts], corners[seconds])
    ranks, steps = _ranks(regions), _nearest_ways(regions, corners)
    near, back = ranks[firsts, seconds], ranks[seconds, firsts]
    flags = np.stack(
        [near == 0, back == 0, (near == 0) & (back == 0), *ways, *steps[:, firsts, seconds]], axis=1
    ).astype(float)
    return [
        own[firsts],
        own[seconds],
        _by_labels(question, pairs, flags),
        np.concatenate([numbers, flags], axis=1),
        texts[firsts],
        texts[seconds],
    ]


def _label_slots(question: RelationsInput) -> int:
    return min(LABEL_SLOTS, len(question.region_labels) ** 2)


def _by_labels(question: RelationsInput, pairs: Sequence[Pair], flags: NDArray[np.float64]) -> NDArray[np.float64]:
    """(pairs, slots * (1 + flags)): 1 and the flags in the slot of the pair of labels, 0 in all others."""
    labels, slots = len(question.region_labels), _label_slots(question)
    chosen = [question.regions[first].label * labels + question.regions[second].label for first, second in pairs]
    values = np.concatenate([np.ones((len(pairs), 1)), flags], axis=1)
    table = np.zeros((len(pairs), slots, values.shape[1]))
    table[np.arange(len(pairs)), np.array(chosen) % slots] = values
    return table.reshape(len(pairs), -1)


def _ranks(regions: Sequence[RelatedRegion]) -> NDArray[np.intp]:
    """(regions, regions): how many regions of the second's label are nearer to the first than the second is."""
    places, labels = middles(regions), np.array([region.label for region in regions])
    distances = np.linalg.norm(places[:, None] - places[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    ranks = np.zeros(distances.shape, np.intp)
    for label in np.unique(labels):
        of_label = np.flatnonzero(labels == label)
        ranks[:, of_label] = _ranks_in_rows(distances[:, of_label])
    return ranks


def _ranks_in_rows(values: NDArray[np.float64]) -> NDArray[np.intp]:
    """(rows, columns): how many values of the row are smaller."""
    order = np.argsort(values, axis=1)
    ascending = np.take_along_axis(values, order, axis=1)
    is_greater = np.zeros(values.shape, bool)
    is_greater[:, 1:] = ascending[:, 1:] > ascending[:, :-1]
    smaller = np.maximum.accumulate(np.where(is_greater, np.arange(values.shape[1]), 0), axis=1)
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, smaller, axis=1)
    return ranks


def _word_range(words: Sequence[tuple[int, int]], region: RelatedRegion) -> tuple[int, int]:
    """The first word of a span, and the word after its last."""
    first = sum(end <= region.start for _, end in words)
    return first, max(first, sum(start < region.end for start, _ in words))


def _gap(first: tuple[int, int], second: tuple[int, int]) -> tuple[int, int]:
    """The words between two spans; none where they overlap."""
    before, after = sorted((first, second))
    return before[1], max(before[1], after[0])


def _gap_text(text: str, words: Sequence[tuple[int, int]], start: int, end: int) -> str:
    """The characters of a gap; the gap may begin before the first word, and end after the last one."""
    if start == end:
        return ""
    first = words[start - 1][1] if start else 0
    return text[first : words[end][0] if end < len(words) else len(text)]


def _tokens(
    text: str, words: Sequence[tuple[int, int]], places: Sequence[tuple[int, int]], question: RelationsInput
) -> list[str]:
    """For each word what is read of it: the word, or of a region its label, and nothing for its further words."""
    tokens = [text[start:end].casefold() for start, end in words]
    for region, (first, after) in zip(question.regions, places, strict=True):
        tokens[first:after] = [f"<{region.label}>", *[""] * (after - first - 1)][: after - first]
    return tokens


def _context(
    tokens: Sequence[str],
    first: tuple[int, int],
    second: tuple[int, int],
    gap: tuple[int, int],
    *,
    is_forward: bool,
) -> Array:
    """What stands between two spans, and the words beside them; in other slots where the second comes first."""
    between = [token for token in tokens[slice(*gap)] if token]
    read = between if len(between) <= 2 * READ_WORDS else [*between[:READ_WORDS], "...", *between[-READ_WORDS:]]
    after_end = max(first, second)[1]
    before = min(first[0], second[0])
    around = [f"before {token}" for token in tokens[max(0, before - 1) : before]]
    around += [f"after {token}" for token in tokens[after_end : after_end + 1]]
    parts = [*read, *map(" ".join, pairwise(read)), " ".join(read)]
    return _hashed((f"{is_forward} {part}" for part in [*parts, *around]), CONTEXT_SLOTS)


def _characters(text: str) -> Iterator[str]:
    """The words and the sequences of three characters of a text; a digit counts as any other."""
    read = re.sub(r"\d", "0", f" {text[:80].casefold()} ")
    yield from read.split()
    yield from (read[start : start + 3] for start in range(len(read) - 2))


def _hashed(parts: Iterable[str], slots: int) -> Array:
    """(slots,) of length 1; zeros for no parts."""
    vector = np.zeros(slots, np.float32)
    for part in parts:
        code = zlib.crc32(part.encode("utf-8", "replace"))
        vector[code % slots] += 1.0 if code >> 31 else -1.0
    length = float(np.linalg.norm(vector))
    return vector / length if length else vector


def _geometry(
    first: NDArray[np.float64], second: NDArray[np.float64]
) -> tuple[NDArray[np.float64], list[NDArray[np.bool_]]]:
    """Numbers, (pairs, PICTURE_NUMBERS - PICTURE_FLAGS), and whether the second is right of the first, and below.

    Args:
        first, second: (pairs, 4): corners.
    """
    sizes = [boxes[:, 2:] - boxes[:, :2] for boxes in (first, second)]
    offset = (second[:, :2] + second[:, 2:] - first[:, :2] - first[:, 2:]) / 2
    unit = np.maximum((sizes[0] + sizes[1]) / 2, 1e-6)
    common = np.clip(np.minimum(first[:, 2:], second[:, 2:]) - np.maximum(first[:, :2], second[:, :2]), 0, None)
    areas = [np.maximum(size.prod(1), 1e-9) for size in sizes]
    shared = common.prod(1)
    numbers = np.column_stack(
        [
            np.exp(-(((offset / unit)[:, :, None] - PLACES) ** 2)).reshape(len(offset), -1),
            *(common[:, axis] / np.maximum(np.minimum(sizes[0], sizes[1])[:, axis], 1e-6) for axis in (0, 1)),
            shared / areas[0],
            shared / areas[1],
            shared / (areas[0] + areas[1] - shared),
            np.clip(np.log(areas[1] / areas[0]) / 4, -1, 1),
            np.exp(-np.linalg.norm(offset, axis=1) * 4),
        ]
    )
    is_across = np.abs(offset[:, 0]) >= np.abs(offset[:, 1])
    return numbers, [is_across & (offset[:, 0] > 0), ~is_across & (offset[:, 1] > 0)]


def _nearest_ways(regions: Sequence[RelatedRegion], corners: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(8, regions, regions): whether the second is the next one right, left, below and above the first.

    First of its label and in the same row or column, then of all regions wherever they lie.
    """
    labels = np.array([region.label for region in regions])
    middle, half = (corners[:, :2] + corners[:, 2:]) / 2, (corners[:, 2:] - corners[:, :2]) / 2
    offsets = middle[None] - middle[:, None]
    in_line, anywhere = [], []
    for axis, sign in ((0, 1), (0, -1), (1, 1), (1, -1)):
        other = 1 - axis
        is_in_line = np.abs(offsets[..., other]) < half[:, None, other] + half[None, :, other]
        steps = np.where(sign * offsets[..., axis] > 0, sign * offsets[..., axis], np.inf)
        away = np.where(is_in_line, steps, np.inf)
        nearest = np.empty_like(away)
        for label in np.unique(labels):
            nearest[:, labels == label] = away[:, labels == label].min(1, keepdims=True)
        in_line.append(np.isfinite(away) & (away == nearest))
        anywhere.append(np.isfinite(steps) & (steps == steps.min(1, keepdims=True)))
    return np.stack([*in_line, *anywhere])


def _mean(sums: NDArray[np.float64], start: int, end: int) -> NDArray[np.float64]:
    """The mean of the rows from `start` to before `end`, from cumulative sums; zeros for none."""
    mean: NDArray[np.float64] = (sums[end] - sums[start]) / max(1, end - start)
    return mean


@lru_cache(maxsize=8)
def _projection(dim: int) -> NDArray[np.float64]:
    """(dim, PROJECTED): a random projection, always the same, which keeps lengths about as they are."""
    drawn: NDArray[np.float64] = np.random.default_rng(0).standard_normal((dim, PROJECTED)) / np.sqrt(PROJECTED)
    return drawn
