"""Divides the transcript of a sound among the windows of it that a model hears one by one."""

import re
from collections.abc import Sequence

import numpy as np

from lorabel.evaluation.written_text import UNSPACED

# A word, or a character of a script without spaces, with the spaces behind it.
_UNIT = re.compile(rf"{UNSPACED}\s*|(?:(?!{UNSPACED})\S)+\s*")


def joined(texts: Sequence[str]) -> str:
    """Return the texts of windows that follow each other as one text."""
    whole = ""
    for text in filter(None, map(str.strip, texts)):
        is_spaced = whole and not (re.match(UNSPACED, whole[-1]) and re.match(UNSPACED, text))
        whole += f" {text}" if is_spaced else text
    return whole


def divided(transcript: str, heard: Sequence[str], lengths: Sequence[float]) -> list[str]:
    """Return the part of the transcript that belongs to each window.

    Each word goes where the most alike text was heard: the windows' texts follow each other, and are aligned with
    the transcript with the fewest changes. Where nothing was heard, the words are divided by the windows' lengths.

    Args:
        heard: what a model heard in each window.
        lengths: of the windows.
    """
    units = _UNIT.findall(transcript)
    drafted = [(_key(unit), window) for window, text in enumerate(heard) for unit in _UNIT.findall(text)]
    if drafted:
        windows = _aligned([_key(unit) for unit in units], drafted)
    else:
        ends = np.cumsum(lengths) / sum(lengths) * len(units)
        windows = [int(np.searchsorted(ends[:-1], number, side="right")) for number in range(len(units))]
    parts = [""] * len(heard)
    for unit, window in zip(units, windows, strict=True):
        parts[window] += unit
    return [part.strip() for part in parts]


def _key(unit: str) -> str:
    """By which words are compared: without case and punctuation."""
    return "".join(filter(str.isalnum, unit.casefold())) or unit.strip()


def _aligned(words: Sequence[str], drafted: Sequence[tuple[str, int]]) -> list[int]:
    """For each word, the window of the drafted word that it is aligned with, or of the drafted word before it."""
    texts, columns = np.array([text for text, _ in drafted]), np.arange(len(drafted) + 1)
    costs = np.zeros((len(words) + 1, len(drafted) + 1), np.int32)
    costs[0] = columns
    for row, word in enumerate(words, 1):
        replaced = costs[row - 1, :-1] + (texts != word)
        best = np.concatenate([[row], np.minimum(replaced, costs[row - 1, 1:] + 1)])
        # A drafted word that is left out costs one: the least of all cells to the left, and the way from there.
        costs[row] = np.minimum.accumulate(best - columns) + columns
    windows = [0] * len(words)
    row, column = len(words), len(drafted)
    while row:
        cost = costs[row, column]
        is_paired = column > 0 and cost == costs[row - 1, column - 1] + (texts[column - 1] != words[row - 1])
        if not is_paired and column and cost == costs[row, column - 1] + 1:
            column -= 1
            continue
        row -= 1
        windows[row] = drafted[max(column - 1, 0)][1]
        column -= is_paired
    return windows
