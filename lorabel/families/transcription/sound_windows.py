"""Cuts a sound into windows that are as long as a model hears at once, at quiet moments in which nobody speaks."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lorabel.families.segments.voice_activity import RATE_HZ, SpokenSpan, VoiceActivity
from lorabel.media.audio import Sound

# A pause between words is about as long; so long is the moment that is cut.
PAUSE_S = 0.2
HOP_S = 0.02
# A window is not shorter than this share of the longest, unless it is the last.
SHORTEST_SHARE = 0.5
# The root of the mean square of PAUSE_S, at most, of a sound without speech: 60 dB below the loudest possible.
SILENT = 1e-3


Span = tuple[int, int]


def speech_windows(sound: Sound, rate_hz: int, longest: int, voice: VoiceActivity | None = None) -> list[Span]:
    """Return where the windows of a sound begin and end, in samples: one after the other, without silent ones.

    Args:
        longest: most samples of a window.
        voice: says where somebody speaks, if it hears at `rate_hz`: a sound may be loud between words, and soft
            within one. None: loudness decides alone.
    """
    loudness, hop = _loudness(sound, rate_hz), round(HOP_S * rate_hz)
    unfit = loudness
    if voice is not None and rate_hz == RATE_HZ and len(sound) > longest:
        unfit = loudness + _is_spoken(voice.spans(sound), len(loudness))
    spans: list[Span] = []
    start = 0
    while start < len(sound):
        end = len(sound)
        if end - start > longest:
            first, last = (start + round(SHORTEST_SHARE * longest)) // hop + 1, (start + longest) // hop
            # Of equally quiet moments the last, so that there are few windows.
            candidates = unfit[first : last + 1][::-1]
            end = (last - int(np.argmin(candidates))) * hop if len(candidates) else start + longest
        if loudness[start // hop : -(-end // hop)].max(initial=0.0) > SILENT:
            spans.append((start, end))
        start = end
    return spans


def segment_windows(
    sound: Sound,
    rate_hz: int,
    longest: int,
    segments: Sequence[tuple[float, float]],
    voice: VoiceActivity | None = None,
) -> tuple[list[Span], tuple[int, ...]]:
    """Return where the windows of some segments are, in samples, and how many of them each segment has.

    A segment is a window, unless it is too long. One that begins after the end of the sound has none.

    Args:
        longest: most samples of a window.
        segments: start and end of each, in seconds.
        voice: see `speech_windows`.
    """
    spans: list[Span] = []
    counts: list[int] = []
    for start_s, end_s in segments:
        start, end = round(start_s * rate_hz), min(round(end_s * rate_hz), len(sound))
        of_segment = [(start, end)] if start < end else []
        if end - start > longest:
            of_segment = [
                (start + a, start + b) for a, b in speech_windows(sound[start:end], rate_hz, longest, voice)
            ]
        spans += of_segment
        counts.append(len(of_segment))
    return spans, tuple(counts)


def _is_spoken(spans: Sequence[SpokenSpan], moments: int) -> NDArray[np.bool_]:
    """(moments,): whether a moment is in a span, one every HOP_S."""
    times, spoken = HOP_S * np.arange(moments), np.zeros(moments, np.bool_)
    for span in spans:
        spoken |= (span.start_s <= times) & (times <= span.end_s)
    return spoken


def _loudness(sound: Sound, rate_hz: int) -> Sound:
    """(moments,): the root of the mean square of the PAUSE_S around each moment, one every HOP_S."""
    hop, half = round(HOP_S * rate_hz), round(PAUSE_S * rate_hz / 2)
    sums = np.concatenate([[0.0], np.cumsum(np.square(sound, dtype=np.float64))])
    middles = np.arange(0, len(sound) + 1, hop)
    begins, ends = np.maximum(middles - half, 0), np.minimum(middles + half, len(sound))
    squares: Sound = np.sqrt((sums[ends] - sums[begins]) / np.maximum(ends - begins, 1))
    return squares
