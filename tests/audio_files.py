"""Synthesises sounds for tests, and encodes them with PyAV."""

import io
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

RATE_HZ = 16_000
Samples = NDArray[np.float32]


def encoded(samples: Samples, codec: str = "pcm_s16le", file_format: str = "wav", rate_hz: int = RATE_HZ) -> bytes:
    """The bytes of a sound file.

    Args:
        samples: (samples,), or (2, samples) for stereo, in [-1, 1].
    """
    file = io.BytesIO()
    channels = np.atleast_2d(samples).astype(np.float32)
    layout = "mono" if len(channels) == 1 else "stereo"
    with av.open(file, "w", format=file_format) as container:
        stream: Any = container.add_stream(codec, rate=rate_hz, layout=layout)
        frame = av.AudioFrame.from_ndarray(channels, format="fltp", layout=layout)
        frame.rate, frame.pts = rate_hz, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.getvalue()


def tone(pitch_hz: float, length_s: float = 0.5, rate_hz: int = RATE_HZ) -> Samples:
    moments = np.arange(round(length_s * rate_hz)) / rate_hz
    return (0.5 * np.sin(2 * np.pi * pitch_hz * moments)).astype(np.float32)


def chirp(from_hz: float, to_hz: float, length_s: float = 0.5, rate_hz: int = RATE_HZ) -> Samples:
    """A tone whose pitch rises or falls evenly, so that no part of it is like another."""
    moments = np.arange(round(length_s * rate_hz)) / rate_hz
    phase = from_hz * moments + (to_hz - from_hz) * moments**2 / (2 * length_s)
    return (0.5 * np.sin(2 * np.pi * phase)).astype(np.float32)


def noise(seed: int, length_s: float = 0.5, rate_hz: int = RATE_HZ) -> Samples:
    samples = np.random.default_rng(seed).uniform(-0.5, 0.5, round(length_s * rate_hz))
    return samples.astype(np.float32)
