"""Cuts a text into windows of as many tokens as the model reads at once, and finds the tokens of each word."""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# Windows overlap by this part of their length, so that every word has context on both sides.
OVERLAP_DIVISOR = 6


@dataclass(frozen=True)
class Window:
    """A part of a tokenized text.

    Args:
        tokens: (seq,) int64 token ids, special tokens included.
        token_ranges: (words, 2) int64: for each word, its first token in the window and the token after its last.
        words: (words,) index of each of these words in the text.
    """

    tokens: Tensor
    token_ranges: Tensor
    words: tuple[int, ...]


def cut_windows(text: str, words: Sequence[tuple[int, int]], tokenizer: Any, max_tokens: int) -> list[Window]:
    """Tokenize a text and cut it into overlapping windows.

    Each word is in one window only: the window in which it is furthest from a cut. A word without tokens is in
    none, and windows without words are left out.

    Args:
        words: (start, end) of each word, in characters, in the order of the text.
        tokenizer: a fast tokenizer of transformers.
        max_tokens: length of a window, special tokens included.
    """
    encoding = tokenizer(
        text,
        truncation=True,
        max_length=max_tokens,
        stride=max_tokens // OVERLAP_DIVISOR,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    # word -> (distance from the nearest cut, window, first token, token after the last)
    best: dict[int, tuple[float, int, int, int]] = {}
    last_window = len(encoding["input_ids"]) - 1
    for window, offsets in enumerate(encoding["offset_mapping"]):
        for word, first, end in _token_ranges(words, offsets):
            before = first if window > 0 else math.inf
            after = len(offsets) - end if window < last_window else math.inf
            best[word] = max(best.get(word, (-1.0, 0, 0, 0)), (min(before, after), window, first, end))
    windows = []
    for window, tokens in enumerate(encoding["input_ids"]):
        token_ranges = {word: token_range for word, (_, chosen, *token_range) in best.items() if chosen == window}
        if token_ranges:
            windows.append(
                Window(torch.tensor(tokens), torch.tensor(list(token_ranges.values())), tuple(token_ranges))
            )
    return windows


def _token_ranges(
    words: Sequence[tuple[int, int]], offsets: Sequence[tuple[int, int]]
) -> Iterator[tuple[int, int, int]]:
    """Yield (word, first token, token after its last) for each word that has tokens.

    Args:
        offsets: (start, end) of each token, in characters, in the order of the text; empty for special tokens.
    """
    tokens = [token for token, (start, end) in enumerate(offsets) if end > start]
    starts, ends = [offsets[token][0] for token in tokens], [offsets[token][1] for token in tokens]
    for word, (start, end) in enumerate(words):
        first, after = bisect_right(ends, start), bisect_left(starts, end)
        if first < after:
            yield word, tokens[first], tokens[after - 1] + 1
