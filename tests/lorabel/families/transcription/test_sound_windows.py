from itertools import pairwise

import numpy as np

from lorabel.families.segments.voice_activity import VoiceActivity
from lorabel.families.transcription.sound_windows import speech_windows
from tests import whisper_tiny
from tests.audio_files import RATE_HZ, Samples, noise
from tests.spoken_scenes import sentence, with_pauses

LONGEST = 3 * RATE_HZ


def silence(length_s: float) -> Samples:
    return np.zeros(round(length_s * RATE_HZ), np.float32)


def windows_s(*parts: Samples) -> list[tuple[float, float]]:
    spans = speech_windows(np.concatenate(parts), RATE_HZ, LONGEST)
    return [(start / RATE_HZ, end / RATE_HZ) for start, end in spans]


def test_a_sound_that_fits_is_one_window() -> None:
    assert windows_s(noise(1, 3.0)) == [(0.0, 3.0)]


def test_a_long_sound_is_cut_in_its_pauses() -> None:
    pause = silence(0.3)
    spans = windows_s(noise(1, 2.0), pause, noise(2, 1.8), pause, noise(3, 0.5), pause, noise(4, 2.5))
    # Pauses at 2.0 to 2.3, 4.1 to 4.4 and 4.9 to 5.2 s.
    (first, second, third) = [end for _, end in spans]
    assert 2.0 < first < 2.3 and 4.9 < second < 5.2 and third == 7.7
    assert [start for start, _ in spans] == [0.0, first, second]


def test_noise_without_a_pause_is_cut_all_the_same_and_no_moment_is_lost() -> None:
    spans = windows_s(noise(5, 20.0))
    assert spans[0][0] == 0.0 and spans[-1][1] == 20.0
    assert all(end == start for (_, end), (start, _) in pairwise(spans))
    assert all(0 < end - start <= 3.0 for start, end in spans)


def test_the_quieter_moment_is_cut_where_there_is_no_silence() -> None:
    spans = windows_s(noise(1, 2.0), 0.05 * noise(2, 0.3), noise(3, 2.5))
    assert 2.0 < spans[0][1] < 2.3


def test_silent_windows_are_left_out() -> None:
    assert windows_s(silence(10.0)) == windows_s(1e-4 * noise(1, 10.0)) == []
    spans = windows_s(silence(6.0), noise(1, 1.0), silence(6.0))
    assert len(spans) == 1 and spans[0][0] <= 6.0 and spans[0][1] >= 7.0


def test_a_sound_is_cut_where_nobody_speaks_and_not_at_quiet_moments_of_a_sentence() -> None:
    """Noise fills the pauses, louder than the quiet moments within a sentence."""
    spoken = [sentence(text) for text in whisper_tiny.SENTENCES]
    sound, spans = with_pauses(spoken)
    hum = np.random.default_rng(0).standard_normal(len(sound)).astype(np.float32) * 0.1
    for start, end in spans:
        hum[round(start * RATE_HZ) : round(end * RATE_HZ)] = 0
    longest = round((spans[1][1] + 0.4) * RATE_HZ)
    by_loudness, by_voice = (
        [end / RATE_HZ for _, end in speech_windows(sound + hum, RATE_HZ, longest, voice)][:-1]
        for voice in (None, VoiceActivity.load())
    )
    assert any(start < cut < end for cut in by_loudness for start, end in spans)
    assert by_voice and not any(start < cut < end for cut in by_voice for start, end in spans)
