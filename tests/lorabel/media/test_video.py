"""Decoded frames are compared with the pictures that were encoded: a frame's brightness tells its moment."""

import io
import socket
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from lorabel.errors import UnreadableError
from lorabel.media import video
from lorabel.media.container import Track
from lorabel.media.decode_memory import DecodeMemory
from lorabel.media.video import Beginning, decode_beginning, decode_video, moment_s, numbered_frames
from tests import audio_files
from tests.video_files import brightening, colour_video, encoded

CODECS = [("libx264", "mp4"), ("mpeg4", "mp4"), ("libvpx-vp9", "webm"), ("libvpx", "webm")]
MEGAPIXELS = 100


def levels(file: bytes, frames: int = 8, clip_s: float = 0.0) -> list[int]:
    """The mean brightness of each decoded frame, 0 to 255."""
    pictures = decode_video(file, frames, clip_s, MEGAPIXELS)
    return [round(float(np.asarray(picture).mean())) for picture in pictures]


def joined(files: list[bytes]) -> bytes:
    """WebM files of 25 frames a second, one after the other in a stream with the first file's header."""
    file, count = io.BytesIO(), 0
    with av.open(file, "w", format="webm") as container:
        stream: Any = None
        for part in files:
            with av.open(io.BytesIO(part)) as source:
                stream = stream or container.add_stream_from_template(source.streams.video[0])
                for packet in source.demux(video=0):
                    if packet.size:
                        packet.stream = stream
                        packet.pts = packet.dts = round(count / 25 / packet.time_base)
                        container.mux(packet)
                        count += 1
    return file.getvalue()


def beginning(file: bytes, step_s: float = 0.2, most_s: float = 60.0) -> Beginning[int]:
    """The mean brightness of the frame at each step, 0 to 255."""
    return decode_beginning(
        file, step_s, most_s, lambda picture: round(float(np.asarray(picture).mean())), MEGAPIXELS
    )


def with_length(file: bytes, box: bytes, length: int) -> bytes:
    """An MP4 file whose header claims another length, in units of its own."""
    place = file.index(box) + 4 + 4 + 4 + 4 + 4  # version and flags, times of creation and change, unit
    return file[:place] + length.to_bytes(4, "big") + file[place + 4 :]


@pytest.mark.parametrize(("codec", "file_format"), CODECS)
def test_each_frame_is_on_the_screen_in_the_middle_of_one_of_several_equal_parts(
    codec: str, file_format: str
) -> None:
    file = encoded(brightening(96), codec, file_format)
    expected = [255 * (12 * part + 6) / 95 for part in range(8)]
    assert levels(file) == pytest.approx(expected, abs=6)


@pytest.mark.parametrize(("codec", "file_format"), CODECS)
def test_the_frame_that_is_shown_at_every_step_is_decoded_from_the_first_moment_to_the_last(
    codec: str, file_format: str
) -> None:
    """96 frames are 3.84 s: at 0.2 s the frame with index 5 is shown, at 3.8 s that with index 95."""
    found = beginning(encoded(brightening(96), codec, file_format))
    assert found.frames == pytest.approx([255 * 5 * step / 95 for step in range(20)], abs=6)
    assert (found.read_s, found.length_s) == (pytest.approx(3.84, abs=0.05), found.read_s)


def test_a_long_video_is_decoded_from_its_beginning_and_its_whole_length_is_known() -> None:
    found = beginning(encoded(brightening(100)), most_s=1.0)
    assert len(found.frames) == 6 and (found.read_s, found.length_s) == (1.0, pytest.approx(4.0))


def test_where_too_many_frames_would_have_to_be_decoded_the_beginning_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(video, "MOST_DECODED", 51)
    found = beginning(encoded(brightening(100)))
    assert found.frames == pytest.approx([255 * 5 * step / 99 for step in range(11)], abs=6)
    assert (found.read_s, found.length_s) == (pytest.approx(2.0), pytest.approx(4.0))
    monkeypatch.setattr(video, "MOST_DECODED_MEGAPIXELS", 0)
    with pytest.raises(UnreadableError, match="would have to be decoded"):
        beginning(encoded(brightening(100)))


@pytest.mark.parametrize("box", [b"mvhd", b"mdhd"])
@pytest.mark.parametrize("length", [0, 1, 2**31 - 1])
def test_the_frames_decide_how_long_a_video_is_and_not_its_header(box: bytes, length: int) -> None:
    file = encoded(brightening(50))
    found = beginning(with_length(file, box, length))
    assert found == beginning(file) and found.length_s == pytest.approx(2.0)


def test_a_video_that_breaks_off_is_read_as_far_as_it_goes() -> None:
    whole = encoded(brightening(200), "libvpx", "webm", keyframe_every=20)
    found = beginning(whole[: len(whole) * 2 // 3])
    assert 3.0 < found.length_s < 7.0 and len(found.frames) == int(found.length_s / 0.2 + 1e-6) + 1
    assert found.frames == sorted(found.frames)


def test_a_clip_is_taken_from_the_middle() -> None:
    file = encoded(brightening(100))
    assert levels(file, frames=2, clip_s=1.0) == pytest.approx([255 * 44 / 99, 255 * 56 / 99], abs=6)
    assert levels(file, frames=2, clip_s=60.0) == levels(file, frames=2)


def test_a_video_with_fewer_frames_than_are_asked_for_repeats_its_frames() -> None:
    assert levels(encoded(brightening(2)), frames=4) == pytest.approx([0, 0, 255, 255], abs=3)
    assert len(levels(colour_video("red", frames=1))) == 8


def test_decoding_begins_at_the_keyframe_before_each_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = []
    frames = Track.frames
    monkeypatch.setattr(
        Track, "frames", lambda track, key: (decoded.append(frame) or frame for frame in frames(track, key))
    )
    file = encoded(brightening(600), keyframe_every=10)
    expected = [255 * (75 * part + 37) / 599 for part in range(8)]
    assert levels(file) == pytest.approx(expected, abs=6)
    assert len(decoded) <= 8 * 11


def test_frames_after_the_same_keyframe_are_decoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "MOST_DECODED", 100)
    assert len(levels(encoded(brightening(100)))) == 8


def test_a_video_with_too_few_keyframes_is_refused_and_the_error_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(video, "MOST_DECODED", 50)
    with pytest.raises(UnreadableError, match="only 1 keyframes in 4 s; encode it with more") as error:
        levels(encoded(brightening(100)))
    assert error.value.is_permanent


def test_the_pixels_of_all_decoded_frames_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """A frame has 64 x 48 pixels."""
    monkeypatch.setattr(video, "MOST_DECODED_MEGAPIXELS", 50.5 * 64 * 48 / 1e6)
    assert len(levels(encoded(brightening(50)))) == 8
    with pytest.raises(UnreadableError, match="more than 50 frames of 64 x 48 would have to be decoded") as error:
        levels(encoded(brightening(100)))
    assert error.value.is_permanent


def test_frames_that_are_large_are_shrunk(monkeypatch: pytest.MonkeyPatch) -> None:
    file = encoded(brightening(8), rotation=90)
    assert [picture.size for picture in decode_video(file, 1, 0.0, MEGAPIXELS, 12)] == [(48, 64)]
    monkeypatch.setattr(video, "LARGE_PX", 3000)
    assert [picture.size for picture in decode_video(file, 1, 0.0, MEGAPIXELS, 12)] == [(12, 16)]


def test_memory_is_reserved_until_the_last_frame_was_taken() -> None:
    memory = DecodeMemory(300 * 10**6)
    pictures = decode_video(encoded(brightening(8)), 2, 0.0, MEGAPIXELS, memory=memory)
    next(pictures)
    assert memory.reserved_bytes == 1920 * 1088 * (24 * 1.5 + 11)
    list(pictures)
    assert memory.reserved_bytes == 0
    with pytest.raises(UnreadableError, match="decoding needs 94 MB, more than 79, 7/8 of MEDIA"):
        list(decode_video(encoded(brightening(8)), 2, 0.0, MEGAPIXELS, memory=DecodeMemory(90 * 2**20)))


@pytest.mark.slow
def test_frames_may_become_larger_up_to_what_memory_was_reserved_for() -> None:
    """As in recordings of video calls; the first frames have 64 x 48 pixels."""
    small, medium, large = (
        encoded(brightening(8, *size), "libvpx", "webm") for size in ((64, 48), (640, 480), (2400, 1600))
    )
    pictures = decode_video(joined([small, medium]), 4, 0.0, MEGAPIXELS)
    assert [picture.size for picture in pictures] == [(64, 48)] * 2 + [(640, 480)] * 2
    with pytest.raises(UnreadableError, match="no readable video"):
        list(decode_video(joined([small, large]), 4, 0.0, MEGAPIXELS))


@pytest.mark.parametrize(
    ("rotation", "blue_corner"),
    [(90, (2, 2)), (180, (2, 61)), (-90, (45, 2))],
    ids=["left", "upside down", "right"],
)
def test_frames_are_turned_upright_by_the_rotation_of_the_video(
    rotation: int, blue_corner: tuple[int, int]
) -> None:
    """The picture is blue above and red below. Turned counterclockwise, blue is at the left."""
    drawn = Image.new("RGB", (64, 48), "red")
    drawn.paste("blue", (0, 0, 64, 24))
    (picture,) = decode_video(encoded([drawn] * 3, rotation=rotation), 1, 0.0, MEGAPIXELS)
    assert picture.size == ((48, 64) if abs(rotation) == 90 else (64, 48))
    x, y = blue_corner
    red, _, blue = picture.getpixel((min(x, picture.width - 1), min(y, picture.height - 3)))
    assert blue > 200 and red < 50


def test_a_video_that_breaks_off_shows_its_last_readable_frame() -> None:
    whole = encoded(brightening(200), "libvpx", "webm", keyframe_every=20)
    found_levels = levels(whole[: len(whole) * 2 // 3], frames=8)
    assert len(found_levels) == 8
    assert found_levels == sorted(found_levels)


def test_broken_packets_are_left_out() -> None:
    file = bytearray(encoded(brightening(100), keyframe_every=10))
    middle = len(file) // 3
    file[middle : middle + 200] = bytes(200)
    found_levels = levels(bytes(file))
    assert len(found_levels) == 8
    assert found_levels[-1] == pytest.approx(255 * 94 / 99, abs=6)


def playlist(url: str) -> bytes:
    return f"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{url}\n#EXT-X-ENDLIST\n".encode()


def test_a_playlist_opens_neither_an_address_nor_a_file(tmp_path: Path) -> None:
    hidden = tmp_path / "hidden.mp4"
    hidden.write_bytes(colour_video("red"))
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        url = f"http://127.0.0.1:{server.getsockname()[1]}/hidden.mp4"
        for target in (url, str(hidden)):
            for file in (
                playlist(target),
                f"ffconcat version 1.0\nfile '{target}'\n".encode(),
                f'<MPD><Period><AdaptationSet mimeType="video/mp4"><BaseURL>{target}</BaseURL></AdaptationSet>'
                "</Period></MPD>".encode(),
            ):
                with pytest.raises(UnreadableError, match="no readable video"):
                    levels(file)
        with pytest.raises(TimeoutError):
            server.accept()


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        (b"", "file of 0 bytes is no readable video"),
        (b"hello", "no readable video"),
        (bytes(5000), "no readable video"),
        (colour_video("red")[:700], "no readable video"),
        (audio_files.encoded(audio_files.tone(440), "aac", "mp4"), "holds audio, but no video"),
        (audio_files.encoded(audio_files.tone(440)), "no readable video"),
    ],
    ids=["empty", "text", "zeros", "half", "sound in mp4", "wav"],
)
def test_a_broken_file_is_unreadable_for_good(file: bytes, reason: str) -> None:
    with pytest.raises(UnreadableError, match=reason) as error:
        levels(file)
    assert error.value.is_permanent


def test_a_codec_that_no_browser_has_is_not_decoded() -> None:
    with pytest.raises(UnreadableError, match="no readable video"):
        levels(encoded(brightening(4), "mpeg2video", "mp4"))


def test_frames_that_are_too_large_are_refused() -> None:
    file = encoded([np.zeros((1000, 1200, 3), np.uint8)] * 2)
    with pytest.raises(UnreadableError, match=r"1\.2 megapixels, more than 1 \(MEDIA_MAX_MEGAPIXELS\)"):
        list(decode_video(file, 8, 0.0, 1))


def numbered_levels(file: bytes, frames_per_s: float, numbers: list[int]) -> tuple[int, list[int]]:
    """How many frames a video has, and the mean brightness of some."""
    with numbered_frames(file, frames_per_s, MEGAPIXELS) as frames:
        return frames.count, [round(float(np.asarray(picture).mean())) for picture in frames.pictures(numbers)]


@pytest.mark.parametrize(("codec", "file_format"), CODECS)
def test_frames_have_the_numbers_that_the_editor_shows(codec: str, file_format: str) -> None:
    file = encoded(brightening(50), codec, file_format)
    numbers = [1, 2, 3, 17, 33, 49, 50]
    count, found = numbered_levels(file, 25, numbers)
    assert count == 50
    assert found == pytest.approx([255 * (number - 1) / 49 for number in numbers], abs=4)


def test_the_label_configs_frame_rate_counts_whatever_the_file_says() -> None:
    file = encoded(brightening(50), frames_per_s=25)
    count, found = numbered_levels(file, 12.5, [1, 2, 13, 25])
    assert (count, found) == (25, pytest.approx([255 * number / 49 for number in (0, 2, 24, 48)], abs=4))
    count, found = numbered_levels(file, 50, [1, 2, 3, 100])
    assert (count, found) == (100, pytest.approx([255 * number / 49 for number in (0, 0, 1, 49)], abs=4))


def test_frames_are_counted_where_the_header_lies_and_a_number_after_the_last_shows_the_last() -> None:
    halves = [encoded(brightening(50)[:25], "libvpx", "webm"), encoded(brightening(50)[25:], "libvpx", "webm")]
    count, found = numbered_levels(joined(halves), 25, [1, 50, 999])
    assert (count, found) == (50, pytest.approx([0, 255, 255], abs=4))


def test_a_frame_is_shown_at_the_moment_to_which_the_editor_seeks() -> None:
    """As its video player has it: rounded to 2 ms, and 2 ms more."""
    assert moment_s(1, 24) == pytest.approx(0.002)
    assert moment_s(2, 24) == pytest.approx(0.042 + 0.002)
    assert moment_s(25, 25) == pytest.approx(0.96 + 0.002)
