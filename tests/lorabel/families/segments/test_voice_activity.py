"""Where people speak: sentences of espeak-ng that the test has put into a sound, against what is found."""

import numpy as np
import pytest
import torch

from lorabel.families.segments.voice_activity import RATE_HZ, VoiceActivity
from lorabel.media.audio import decode_beginning
from tests import whisper_tiny
from tests.audio_files import Samples, noise, tone

PAUSE = np.zeros(round(0.8 * RATE_HZ), np.float32)
NEAR_S = 0.25


@pytest.fixture(scope="module")
def voice() -> VoiceActivity:
    return VoiceActivity.load()


def _spoken(text: str, gain: float = 1.0) -> Samples:
    """A sentence without the silence around it."""
    sound, _ = decode_beginning(whisper_tiny.spoken(text), RATE_HZ, 60.0)
    loud = np.flatnonzero(np.abs(sound) > 0.003)
    return gain * sound[loud[0] : loud[-1] + 1]


def _with_pauses(parts: list[Samples]) -> tuple[Samples, list[tuple[float, float]]]:
    """The parts with a pause before, between and after them, and where they are, in seconds."""
    pieces, truth, at = [PAUSE], [], len(PAUSE)
    for part in parts:
        truth.append((at / RATE_HZ, (at + len(part)) / RATE_HZ))
        pieces += [part, PAUSE]
        at += len(part) + len(PAUSE)
    return np.concatenate(pieces), truth


@pytest.mark.parametrize(("hiss", "second_speaker"), [(0.0, 1.0), (0.02, 1.0), (0.002, 0.1)])
def test_sentences_are_found_with_noise_and_where_the_second_speaker_is_softer(
    voice: VoiceActivity, hiss: float, second_speaker: float
) -> None:
    sentences = [_spoken(text) for text in whisper_tiny.SENTENCES]
    sound, truth = _with_pauses([sentences[0], second_speaker * sentences[1], sentences[2]])
    sound += (hiss * np.random.default_rng(0).standard_normal(len(sound))).astype(np.float32)
    spans = voice.spans(sound)
    found = np.array([(span.start_s, span.end_s) for span in spans])
    assert found == pytest.approx(np.array(truth), abs=NEAR_S)
    assert all(0.5 < span.probability <= 1 for span in spans)


@pytest.mark.parametrize(
    "sound", [np.zeros(RATE_HZ, np.float32), noise(0, 3.0), tone(300, 3.0), np.zeros(0, np.float32)]
)
def test_nobody_speaks_in_silence_noise_or_tones(voice: VoiceActivity, sound: Samples) -> None:
    assert voice.spans(sound) == []


def test_long_speech_is_divided_at_a_pause(voice: VoiceActivity) -> None:
    sentence = _spoken(whisper_tiny.SENTENCES[0])
    sound = np.concatenate([sentence, PAUSE[: len(PAUSE) // 4], sentence])
    (whole,) = voice.spans(sound)
    first, second = voice.spans(sound, longest_s=1.5 * len(sentence) / RATE_HZ)
    assert whole.start_s == first.start_s and whole.end_s == second.end_s
    assert first.end_s == pytest.approx(len(sentence) / RATE_HZ, abs=NEAR_S)


def test_torch_keeps_its_threads() -> None:
    threads = torch.get_num_threads()
    VoiceActivity.load()
    assert torch.get_num_threads() == threads
