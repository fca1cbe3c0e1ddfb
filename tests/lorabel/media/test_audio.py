"""Decoded sounds are compared with the synthesised sounds that were encoded."""

import numpy as np
import pytest

from lorabel.errors import UnreadableError
from lorabel.media.audio import decode_audio, decode_beginning, windows
from tests import video_files
from tests.audio_files import RATE_HZ, Samples, chirp, encoded, tone

LOSSY = [("libmp3lame", "mp3"), ("libopus", "ogg"), ("libopus", "webm"), ("aac", "mp4"), ("aac", "adts")]


def pitch_hz(sound: Samples, rate_hz: int = RATE_HZ) -> float:
    """The loudest frequency."""
    return float(np.abs(np.fft.rfft(sound)).argmax() * rate_hz / len(sound))


@pytest.mark.parametrize(("codec", "file_format"), [("pcm_s16le", "wav"), ("pcm_f32le", "wav"), ("flac", "flac")])
def test_a_lossless_file_keeps_its_samples(codec: str, file_format: str) -> None:
    sound = chirp(200, 4000)
    decoded = decode_audio(encoded(sound, codec, file_format), RATE_HZ, 10.0)
    assert decoded.dtype == np.float32
    np.testing.assert_allclose(decoded, sound, atol=1e-4)


@pytest.mark.parametrize(("codec", "file_format"), LOSSY)
def test_lossy_files_keep_pitch_and_length(codec: str, file_format: str) -> None:
    decoded = decode_audio(encoded(tone(440, 2.0, 48_000), codec, file_format, 48_000), RATE_HZ, 10.0)
    assert pitch_hz(decoded) == pytest.approx(440, abs=1)
    assert len(decoded) == pytest.approx(2.0 * RATE_HZ, rel=0.03)
    assert decoded.std() == pytest.approx(0.354, rel=0.06), "LAME makes it a twentieth quieter"


def test_a_sound_is_resampled_and_its_channels_averaged() -> None:
    left, right = tone(440, 1.0, 44_100), np.zeros(44_100, np.float32)
    decoded = decode_audio(encoded(np.stack([left, right]), rate_hz=44_100), RATE_HZ, 10.0)
    assert len(decoded) == pytest.approx(RATE_HZ, abs=2)
    assert pitch_hz(decoded) == pytest.approx(440, abs=1)
    assert decoded.std() == pytest.approx(0.354 / 2, rel=0.01)


def test_a_long_sound_is_cut_to_its_middle() -> None:
    sound = chirp(200, 4000, 6.0)
    decoded = decode_audio(encoded(sound), RATE_HZ, 2.0)
    np.testing.assert_allclose(decoded, sound[2 * RATE_HZ : 4 * RATE_HZ], atol=1e-4)


def test_the_beginning_of_a_long_sound_is_decoded_and_its_whole_length_is_known() -> None:
    sound = chirp(200, 4000, 6.0)
    decoded, length_s = decode_beginning(encoded(sound), RATE_HZ, 2.0)
    np.testing.assert_allclose(decoded, sound[: 2 * RATE_HZ], atol=1e-4)
    assert length_s == pytest.approx(6.0)


def test_the_samples_of_a_short_sound_say_how_long_it_is() -> None:
    decoded, length_s = decode_beginning(encoded(tone(440, 0.5)), RATE_HZ, 2.0)
    assert len(decoded) == RATE_HZ / 2 and length_s == 0.5


def test_a_file_that_was_cut_off_is_as_long_as_its_samples_whatever_it_says() -> None:
    file = encoded(tone(440, 1.5), "flac", "flac")
    decoded, length_s = decode_beginning(file[: len(file) // 2], RATE_HZ, 2.0)
    assert 0 < length_s < 1.2 and len(decoded) == round(length_s * RATE_HZ)


@pytest.mark.parametrize(("codec", "file_format"), LOSSY)
def test_the_middle_of_a_lossy_file_is_right_within_25_ms(codec: str, file_format: str) -> None:
    rate_hz = 48_000
    sound = chirp(200, 3800, 6.0, rate_hz)
    decoded = decode_audio(encoded(sound, codec, file_format, rate_hz), rate_hz, 2.0)
    expected = sound[2 * rate_hz : 4 * rate_hz]
    assert len(decoded) == len(expected)
    decoded_spectrum, expected_spectrum = (np.fft.rfft(sound, 2 * len(sound)) for sound in (decoded, expected))
    correlation = np.fft.irfft(decoded_spectrum * np.conj(expected_spectrum))
    lag = int(correlation.argmax())
    assert min(lag, len(correlation) - lag) / rate_hz < 0.025


def test_the_sound_of_a_video_is_decoded() -> None:
    assert pitch_hz(decode_audio(encoded(tone(440), "aac", "mp4"), RATE_HZ, 10.0)) == pytest.approx(440, abs=3)


def test_windows_cover_a_sound_evenly() -> None:
    sound = np.arange(25, dtype=np.float32)
    assert [(part[0], part[-1]) for part in windows(sound, 10)] == [(0, 9), (8, 17), (15, 24)]
    assert [len(part) for part in windows(sound, 25)] == [25]
    assert [len(part) for part in windows(sound, 40)] == [25]


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        (b"", "file of 0 bytes is no readable audio"),
        (b"hello", "no readable audio"),
        (encoded(tone(440), "flac", "flac")[:30], "no readable audio"),
        (video_files.colour_video("red"), "holds video, but no audio"),
        (encoded(np.full(1000, np.nan, np.float32), "pcm_f32le"), "samples that are no numbers"),
        (b"#EXTM3U\n#EXTINF:5,\nhttp://127.0.0.1:9/a.mp3\n", "no readable audio"),
    ],
    ids=["empty", "text", "half", "video", "not a number", "playlist"],
)
def test_a_broken_file_is_unreadable_for_good(file: bytes, reason: str) -> None:
    with pytest.raises(UnreadableError, match=reason) as error:
        decode_audio(file, RATE_HZ, 10.0)
    assert error.value.is_permanent
