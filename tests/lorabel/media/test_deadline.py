"""Every reader stops at the deadline, and says that it is not for good. The files are slow to read, but legal."""

import io
import time
from collections.abc import Callable

import pytest
from PIL import Image

from lorabel.content_formats import TextFormat
from lorabel.errors import UnreadableError
from lorabel.media.audio import decode_audio
from lorabel.media.deadline import deadline, is_deadline_over, seconds_left
from lorabel.media.html import parse_fragment, read_html
from lorabel.media.image import decode_image
from lorabel.media.text import read_text_file
from lorabel.media.video import decode_video
from tests.audio_files import encoded as encoded_sound
from tests.audio_files import tone
from tests.video_files import brightening, encoded

PAGE = "<p>word <b>word</b>" * 20_000


def picture() -> bytes:
    file = io.BytesIO()
    Image.effect_noise((1500, 1500), 100).save(file, "PNG")
    return file.getvalue()


READERS: dict[str, Callable[[], object]] = {
    "page": lambda: read_html(PAGE),
    "fragment": lambda: parse_fragment(PAGE),
    "page in a file": lambda: read_text_file(PAGE.encode(), TextFormat(markup="html")),
    "picture": lambda: decode_image(picture(), 100),
    "video": lambda: list(decode_video(encoded(brightening(50)), 8, 0.0, 100)),
    "sound": lambda: decode_audio(encoded_sound(tone(440, 2.0)), 16_000, 1.0),
}


@pytest.mark.parametrize("name", READERS)
def test_nothing_is_read_after_the_deadline(name: str) -> None:
    with deadline(time.monotonic()), pytest.raises(UnreadableError, match="the time was over") as caught:
        READERS[name]()
    assert not caught.value.is_permanent


def test_a_page_is_left_in_the_middle_when_the_deadline_comes() -> None:
    with deadline(time.monotonic() + 0.05), pytest.raises(UnreadableError, match="the time was over"):
        read_html(PAGE)
    assert read_html("<p>the next page").text == "the next page"


def test_frames_are_decoded_until_the_deadline_comes() -> None:
    with deadline(time.monotonic() + 60):
        frames = decode_video(encoded(brightening(50), keyframe_every=1), 8, 0.0, 100)
        next(frames)
        with deadline(time.monotonic()), pytest.raises(UnreadableError, match="the time was over"):
            next(frames)


def test_an_inner_deadline_does_not_outlast_the_outer_one() -> None:
    assert seconds_left(5.0) == 5.0
    with deadline(time.monotonic() - 1), deadline(time.monotonic() + 60):
        assert is_deadline_over() and seconds_left(5.0) == 0.0
    assert not is_deadline_over()
