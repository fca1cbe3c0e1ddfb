"""The spectrograms of a sound's windows, as Whisper hears them."""

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from lorabel.media.audio import Sound

# Windows that are computed together: 13 MB each while it lasts, as each is padded to 30 s.
MOST_TOGETHER = 8


def spectrograms(extractor: Any, windows: Sequence[Sound]) -> Iterator[Tensor]:
    """Yield the spectrogram of each window, (bins, times) float32.

    Args:
        extractor: a `transformers.WhisperFeatureExtractor`.
        windows: (samples,) each, at the extractor's sampling rate.
    """
    for first in range(0, len(windows), MOST_TOGETHER):
        some = windows[first : first + MOST_TOGETHER]
        features = extractor(some, sampling_rate=extractor.sampling_rate, return_tensors="pt")["input_features"]
        for spectrogram in features.float():
            yield spectrogram.clone()  # a view would keep all of them
