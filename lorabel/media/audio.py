"""The bytes of a sound file -> samples of a single channel, and windows of them.

Fetching is in `lorabel.media.fetching`.
"""

import math

import av
import numpy as np
from av.audio.frame import AudioFrame
from numpy.typing import NDArray

from lorabel.errors import UnreadableError
from lorabel.media.container import Track, opened

Sound = NDArray[np.float32]
# Decoding begins this much earlier, since the first samples after a seek are wrong (Opus: RFC 7845, section 4.6;
# MP3 loses a frame).
PREROLL_S = 0.1


def decode_audio(data: bytes, rate_hz: int, most_s: float) -> Sound:
    """Decode the middle of a sound file.

    Args:
        rate_hz: sampling rate of the answer.
        most_s: a longer sound is cut to this many seconds from its middle.

    Returns:
        (samples,) float32 in [-1, 1]: the mean of the channels.

    Raises:
        UnreadableError: for good; the file is broken, holds no sound, or has samples that are not finite.
    """
    with opened(data, "audio") as track:
        skipped_s = max(0.0, track.length_s - most_s) / 2
        return _checked(_part(track, rate_hz, skipped_s, most_s))


def decode_beginning(data: bytes, rate_hz: int, most_s: float) -> tuple[Sound, float]:
    """Decode a sound file from its beginning.

    Args:
        rate_hz: sampling rate of the answer.
        most_s: a longer sound is cut after this many seconds.

    Returns:
        The samples as `decode_audio` returns them, and the length of the whole sound in seconds. The samples
        decide about it, unless they were cut; then the file says how long it is.

    Raises:
        UnreadableError: see `decode_audio`.
    """
    with opened(data, "audio") as track:
        sound = _checked(_part(track, rate_hz, 0.0, most_s))
        decoded_s = len(sound) / rate_hz
        return sound, max(track.length_s, decoded_s) if len(sound) == round(most_s * rate_hz) else decoded_s


def windows(sound: Sound, size: int) -> list[Sound]:
    """Cut a sound into windows of `size` samples: as few as cover the sound, spread evenly, so they may overlap.

    A sound that is shorter than `size` is returned as a single, shorter window.
    """
    count = math.ceil(len(sound) / size)
    starts = np.linspace(0, max(0, len(sound) - size), count).round().astype(int)
    return [sound[start : start + size] for start in starts]


def _checked(sound: Sound) -> Sound:
    if not len(sound):
        raise UnreadableError("the sound has no samples", is_permanent=True)
    if not np.isfinite(sound).all():
        raise UnreadableError("the sound has samples that are no numbers", is_permanent=True)
    return sound


def _part(track: Track, rate_hz: int, skipped_s: float, most_s: float) -> Sound:
    begin = track.start + skipped_s / track.unit_s
    sample_count = round(most_s * rate_hz)
    # The resampler keeps the channels apart, since FFmpeg's own mix of them is not their mean.
    resampler = av.AudioResampler(format="fltp", rate=rate_hz)
    parts: list[Sound] = []
    taken = 0
    # Decoded samples before `begin`; None until the first frame is taken.
    early: int | None = None

    def take(frame: AudioFrame | None) -> int:
        """Add a frame to `parts` (None: what the resampler still holds), and return how many samples they have."""
        nonlocal taken
        added = [part.to_ndarray().mean(0) for part in resampler.resample(frame)]
        parts.extend(added)
        taken += sum(map(len, added))
        return taken

    for frame in track.frames(track.keyframe(begin - PREROLL_S / track.unit_s)):
        if frame.pts + frame.samples / frame.sample_rate / track.unit_s <= begin:
            continue
        if early is None:
            early = max(0, round((begin - frame.pts) * track.unit_s * rate_hz))
        if take(frame) >= early + sample_count:
            break
    else:
        take(None)
    if not parts or early is None:
        return np.empty(0, np.float32)
    return np.concatenate(parts)[early : early + sample_count]
