"""Cuts a sound into windows that are as long as a model hears at once, at the quietest moments. NumPy only."""

from collections.abc import Sequence

import numpy as np

from lorabel.media.audio import Sound

# A pause between words is about as long; so long is the moment that is cut.
PAUSE_S = 0.2
HOP_S = 0.02
# A window is not shorter than this share of the longest, unless it is the last.
SHORTEST_SHARE = 0.5
# The root of the mean square of PAUSE_S, at most, of a sound without speech: -60 dB of the loudest that it could be.
SILENT = 1e-3

Span = tuple[int, int]


def speech_windows(sound: Sound, rate_hz: int, longest: int) -> list[Span]:
    """Return where the windows of a sound begin and end, in samples. They follow each other; silent ones are left out.

    Args:
        longest: most samples of a window.
    """
    loudness, hop = _loudness(sound, rate_hz), round(HOP_S * rate_hz)
    spans: list[Span] = []
    start = 0
    while start < len(sound):
        end = len(sound)
        if end - start > longest:
            first, last = (start + round(SHORTEST_SHARE * longest)) // hop + 1, (start + longest) // hop
            # Of equally quiet moments the last, so that there are few windows.
            candidates = loudness[first : last + 1][::-1]
            end = (last - int(np.argmin(candidates))) * hop if len(candidates) else start + longest
        if loudness[start // hop : -(-end // hop)].max(initial=0.0) > SILENT:
            spans.append((start, end))
        start = end
    return spans


def _loudness(sound: Sound, rate_hz: int) -> Sound:
    """(moments,): the root of the mean square of the PAUSE_S around each moment, one every HOP_S."""
    hop, half = round(HOP_S * rate_hz), round(PAUSE_S * rate_hz / 2)
    sums = np.concatenate([[0.0], np.cumsum(np.square(sound, dtype=np.float64))])
    middles = np.arange(0, len(sound) + 1, hop)
    begins, ends = np.maximum(middles - half, 0), np.minimum(middles + half, len(sound))
    squares: Sound = np.sqrt((sums[ends] - sums[begins]) / np.maximum(ends - begins, 1))
    return squares


def share_words(words: Sequence[str], heard: Sequence[Sequence[str]], lengths: Sequence[float]) -> list[list[str]]:
    """Divide the words of a transcript among the windows of its sound.

    Each word goes where the most alike text was heard: the windows' texts follow each other, and are aligned with
    the transcript with the fewest changes. Where nothing was heard, the words are divided by the windows' lengths.

    Args:
        words: of the transcript.
        heard: for each window, the words that a model heard there.
        lengths: of the windows.
    """
    drafted = [(word.casefold(), window) for window, texts in enumerate(heard) for word in texts]
    shares: list[list[str]] = [[] for _ in heard]
    if not drafted:
        ends = np.cumsum(lengths) / sum(lengths) * len(words)
        for number, word in enumerate(words):
            shares[int(np.searchsorted(ends, number, side="right"))].append(word)
        return shares
    for word, window in zip(words, _aligned([word.casefold() for word in words], drafted), strict=True):
        shares[window].append(word)
    return shares


def _aligned(words: Sequence[str], drafted: Sequence[tuple[str, int]]) -> list[int]:
    """For each word, the window of the drafted word that it is aligned with, or of the one before it."""
    costs = np.zeros((len(words) + 1, len(drafted) + 1), np.int32)
    costs[0], costs[:, 0] = np.arange(len(drafted) + 1), np.arange(len(words) + 1)
    texts = np.array([text for text, _ in drafted])
    for row, word in enumerate(words, 1):
        replaced = costs[row - 1, :-1] + (texts != word)
        best = np.concatenate([[row], np.minimum(replaced, costs[row - 1, 1:] + 1)])
        # What is inserted costs one more for each column, so the running minimum without the columns is it.
        columns = np.arange(len(drafted) + 1)
        costs[row] = np.minimum.accumulate(best - columns) + columns
    windows = [0] * len(words)
    row, column = len(words), len(drafted)
    while row:
        word_cost = costs[row, column]
        is_paired = column and word_cost == costs[row - 1, column - 1] + (texts[column - 1] != words[row - 1])
        if not is_paired and column and word_cost == costs[row, column - 1] + 1:
            column -= 1
            continue
        windows[row - 1] = drafted[max(column - 1, 0)][1]
        row, column = row - 1, column - bool(is_paired)
    return windows
