"""The spectrograms of a sound's windows, as Whisper hears them."""

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor
from torch.nn import functional

from lorabel.media.audio import Sound


def spectrograms(extractor: Any, windows: Sequence[Sound]) -> Iterator[Tensor]:
    """Yield the spectrogram of each window, (bins, times) float32.

    It is padded with silence, whose columns are all alike. So few of them are computed.

    Args:
        extractor: a `transformers.WhisperFeatureExtractor`.
        windows: (samples,) each, at the extractor's sampling rate.
    """
    times = extractor.n_samples // extractor.hop_length
    for window in windows:
        padded = -(-(len(window) + extractor.n_fft) // extractor.hop_length) * extractor.hop_length
        features = extractor(
            window,
            sampling_rate=extractor.sampling_rate,
            return_tensors="pt",
            # Noise of its own makes each column differ.
            max_length=extractor.n_samples if extractor.dither else min(padded, extractor.n_samples),
        )["input_features"][0].float()
        yield functional.pad(features, (0, times - features.shape[1]), mode="replicate")
