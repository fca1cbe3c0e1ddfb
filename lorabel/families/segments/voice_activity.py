"""Where people speak in a sound, by silero-vad (https://github.com/snakers4/silero-vad, MIT).

Its model, 1.2 MB of ONNX, is a file of the package, so nothing is downloaded. A second of sound takes 2 ms
of a CPU. Noise, tones and music without a voice are no speech.
"""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Self

import numpy as np
import torch

from lorabel.media.audio import Sound

# The sampling rate of the sounds that are searched.
RATE_HZ = 16_000
# A pause that ends a segment is as long. Pauses at commas are shorter.
PAUSE_S = 0.35
# Speech is a little longer than what the model is sure of.
MARGIN_S = 0.03
# Samples of a frame, of which the model says how likely it is speech.
FRAME = 512
IMPORTING = threading.Lock()


@dataclass(frozen=True)
class SpokenSpan:
    """A part of a sound in which somebody speaks.

    Args:
        start_s: seconds from the beginning of the sound.
        end_s: in seconds.
        probability: that it is speech: the mean of its moments, in [0, 1].
    """

    start_s: float
    end_s: float
    probability: float


@dataclass(frozen=True)
class VoiceActivity:
    """Finds speech. Thread-safe.

    Attributes:
        model: a `silero_vad.SileroVADSequence`.
    """

    model: Any

    @classmethod
    def load(cls) -> Self:
        """Load the model of the package, which takes about 50 ms."""
        # When it is imported, the package sets the number of torch's threads to 1: of the thread that imports it,
        # and of those that begin later.
        with IMPORTING, ThreadPoolExecutor(1, initializer=torch.get_num_threads) as pool:
            threads = pool.submit(torch.get_num_threads).result()
            silero_vad = pool.submit(import_module, "silero_vad").result()
            pool.submit(torch.set_num_threads, threads).result()
        return cls(silero_vad.load_silero_vad(sequence=True))

    def spans(self, sound: Sound, *, longest_s: float = float("inf")) -> list[SpokenSpan]:
        """Return where somebody speaks, in the order of time. Pauses of PAUSE_S divide what is said.

        Args:
            sound: (samples,) float32 at RATE_HZ.
            longest_s: a longer span is divided at its longest pause, also at a shorter one.
        """
        from silero_vad import get_speech_timestamps_from_probs

        probabilities = self.model.audio_forward(sound, RATE_HZ)
        found = get_speech_timestamps_from_probs(
            probabilities,
            sampling_rate=RATE_HZ,
            max_speech_duration_s=longest_s,
            min_silence_duration_ms=round(1000 * PAUSE_S),
            speech_pad_ms=round(1000 * MARGIN_S),
            audio_length_samples=len(sound),
        )
        return [_span(int(span["start"]), int(span["end"]), probabilities) for span in found]


def _span(start: int, end: int, probabilities: Sound) -> SpokenSpan:
    frames = probabilities[start // FRAME : -(-end // FRAME)]
    return SpokenSpan(start / RATE_HZ, end / RATE_HZ, float(np.mean(frames)))
