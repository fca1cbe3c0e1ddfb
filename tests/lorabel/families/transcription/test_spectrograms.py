"""Spectrograms of windows against those that transformers computes of windows padded with silence."""

import numpy as np
import pytest
import torch
from transformers import WhisperFeatureExtractor

from lorabel.families.transcription.spectrograms import spectrograms
from tests.audio_files import noise


@pytest.mark.parametrize("samples", [1, 159, 400, 12_345, 47_999, 48_000])
def test_silence_after_a_window_is_not_computed_and_the_same(samples: int) -> None:
    extractor = WhisperFeatureExtractor(chunk_length=3)
    window = noise(1, 3.0)[:samples]
    expected = extractor(window, sampling_rate=16_000, return_tensors="pt")["input_features"]
    (spectrogram,) = spectrograms(extractor, [window])
    assert spectrogram.shape == expected[0].shape == (80, 300)
    torch.testing.assert_close(spectrogram, expected[0], atol=1e-5, rtol=0)


def test_soft_windows_have_the_same_silence() -> None:
    """How loud a column of silence is depends on the loudest moment."""
    extractor = WhisperFeatureExtractor(chunk_length=3)
    windows = [np.float32(loudness) * noise(2, 1.0) for loudness in (1e-5, 0.3, 1.0)]
    expected = extractor(windows, sampling_rate=16_000, return_tensors="pt")["input_features"]
    found = torch.stack(list(spectrograms(extractor, windows)))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert len(set(expected[:, 0, -1].tolist())) == 3
