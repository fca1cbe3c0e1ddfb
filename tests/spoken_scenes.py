"""Sounds in which espeak-ng speaks sentences with pauses between them, and where each of them is."""

from collections.abc import Sequence

import numpy as np

from lorabel.media.audio import decode_beginning
from tests import whisper_tiny
from tests.audio_files import RATE_HZ, Samples, encoded

PAUSE_S = 0.8
# What is softer than this before and after a sentence is not a part of it.
SOFT = 0.003

Spans = list[tuple[float, float]]


def sentence(text: str, voice: str = "en") -> Samples:
    """A sentence without the silence around it."""
    sound, _ = decode_beginning(whisper_tiny.spoken(text, voice=voice), RATE_HZ, 60.0)
    loud = np.flatnonzero(np.abs(sound) > SOFT)
    return sound[loud[0] : loud[-1] + 1]


def with_pauses(sentences: Sequence[Samples], pause_s: float = PAUSE_S) -> tuple[Samples, Spans]:
    """The sentences with a pause before, between and after them, and start and end of each in seconds."""
    pause = np.zeros(round(pause_s * RATE_HZ), np.float32)
    pieces, spans, at = [pause], Spans(), len(pause)
    for spoken in sentences:
        spans.append((at / RATE_HZ, (at + len(spoken)) / RATE_HZ))
        pieces += [spoken, pause]
        at += len(spoken) + len(pause)
    return np.concatenate(pieces), spans


def scene(texts: Sequence[str], voices: Sequence[str] = ()) -> tuple[bytes, Spans, float]:
    """A WAV file in which sentences are spoken, start and end of each, and the length of the sound, in seconds.

    Args:
        voices: of espeak-ng, one for each sentence.
    """
    spoken = [sentence(text, voice) for text, voice in zip(texts, voices or ["en"] * len(texts), strict=True)]
    sound, spans = with_pauses(spoken)
    return encoded(sound), spans, len(sound) / RATE_HZ
