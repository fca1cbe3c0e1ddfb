"""Where people speak: sentences of espeak-ng that the test has put into a sound, against what is found."""

import subprocess
import sys

import numpy as np
import pytest

from lorabel.families.segments.voice_activity import RATE_HZ, VoiceActivity
from tests import whisper_tiny
from tests.audio_files import Samples, noise, tone
from tests.spoken_scenes import sentence, with_pauses

NEAR_S = 0.25


@pytest.fixture(scope="module")
def voice() -> VoiceActivity:
    return VoiceActivity.load()


@pytest.mark.parametrize(("hiss", "second_speaker"), [(0.0, 1.0), (0.02, 1.0), (0.002, 0.1)])
def test_sentences_are_found_with_noise_and_where_the_second_speaker_is_softer(
    voice: VoiceActivity, hiss: float, second_speaker: float
) -> None:
    sentences = [sentence(text) for text in whisper_tiny.SENTENCES]
    sound, truth = with_pauses([sentences[0], second_speaker * sentences[1], sentences[2]])
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
    spoken = sentence(whisper_tiny.SENTENCES[0])
    pause = np.zeros(round(0.2 * RATE_HZ), np.float32)
    sound = np.concatenate([spoken, pause, spoken])
    (whole,) = voice.spans(sound)
    first, second = voice.spans(sound, longest_s=1.5 * len(spoken) / RATE_HZ)
    assert whole.start_s == first.start_s and whole.end_s == second.end_s
    assert first.end_s == pytest.approx(len(spoken) / RATE_HZ, abs=NEAR_S)


# The package is imported in a thread that computes on one core, as the model server's threads that prepare.
LOADED_ON_ONE_CORE = """
import threading, torch
from lorabel.families.core_threads import on_one_core
from lorabel.families.segments.voice_activity import VoiceActivity

def load():
    with on_one_core():
        VoiceActivity.load()
        print(torch.get_num_threads())

torch.set_num_threads(3)
for work in (load, lambda: print(torch.get_num_threads())):
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
VoiceActivity.load()
print(torch.get_num_threads())
"""


def test_torch_keeps_its_threads() -> None:
    """In the thread that imports the package, in those that begin later, and in others."""
    printed = subprocess.run(
        [sys.executable, "-c", LOADED_ON_ONE_CORE], capture_output=True, text=True, check=True
    )
    assert printed.stdout.split() == ["1", "3", "3"]
