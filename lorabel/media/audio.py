"""A sound's bytes -> samples of one channel, and windows of them. Fetching is in `lorabel.media.fetching`."""

import math

import av
import numpy as np
from av.audio.frame import AudioFrame
from numpy.typing import NDArray

from lorabel.errors import UnreadableError
from lorabel.media.container import Track, opened

Sound = NDArray[np.float32]
# What decoders need before their first right sample (Opus: RFC 7845, section 4.6); MP3 loses a frame after a jump.
PREROLL_S = 0.1


def decode_audio(data: bytes, rate_hz: int, most_s: float) -> Sound:
    """(samples,) in [-1, 1], the mean of the channels, resampled; at most `most_s` from the middle.

    Raises:
        UnreadableError: for good.
    """
    with opened(data, "audio") as track:
        sound = _middle(track, rate_hz, most_s)
    if not len(sound):
        raise UnreadableError("the sound has no samples", is_permanent=True)
    if not np.isfinite(sound).all():
        raise UnreadableError("the sound has samples that are no numbers", is_permanent=True)
    return sound


def windows(sound: Sound, size: int) -> list[Sound]:
    """Of `size` samples each, as few as cover it, spread evenly; a shorter sound is its own only window."""
    count = math.ceil(len(sound) / size)
    starts = np.linspace(0, max(0, len(sound) - size), count).round().astype(int)
    return [sound[start : start + size] for start in starts]


def _middle(track: Track, rate_hz: int, most_s: float) -> Sound:
    begin = track.start + max(0.0, track.length_s - most_s) / 2 / track.unit_s
    wanted = round(most_s * rate_hz)
    # The channels stay apart here: FFmpeg's own mix of them is no mean.
    resampler = av.AudioResampler(format="fltp", rate=rate_hz)
    parts: list[Sound] = []
    early: int | None = None

    def take(frame: AudioFrame | None) -> int:
        parts.extend(part.to_ndarray().mean(0) for part in resampler.resample(frame))
        return sum(len(part) for part in parts)

    for frame in track.frames(track.keyframe(begin - PREROLL_S / track.unit_s)):
        if frame.pts + frame.samples / frame.sample_rate / track.unit_s <= begin:
            continue
        if early is None:
            early = max(0, round((begin - frame.pts) * track.unit_s * rate_hz))
        if take(frame) >= early + wanted:
            break
    else:
        take(None)
    if not parts or early is None:
        return np.empty(0, np.float32)
    return np.concatenate(parts)[early : early + wanted]
