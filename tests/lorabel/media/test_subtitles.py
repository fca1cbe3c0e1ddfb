import pytest
from PIL import Image

from lorabel.media.subtitles import MOST_CHARACTERS, read_subtitles
from tests.audio_files import encoded as encoded_sound
from tests.audio_files import tone
from tests.heard_videos import encoded

PICTURES = [Image.new("RGB", (48, 48), "red")] * 16


@pytest.mark.parametrize("file_format", ["mp4", "matroska"])
def test_the_texts_of_the_track_are_read_in_the_order_of_time(file_format: str) -> None:
    video = encoded(
        PICTURES, tone(300, 2.0), ["The pump <i>leaks</i>.", "Please\nrepair it."], file_format=file_format
    )
    assert read_subtitles(video) == "The pump leaks.\nPlease repair it."


@pytest.mark.parametrize(
    "file", [encoded(PICTURES, tone(300)), encoded(PICTURES), encoded_sound(tone(300)), b"no video", b""]
)
def test_a_file_without_subtitles_has_no_text(file: bytes) -> None:
    assert read_subtitles(file) == ""


def test_a_long_text_is_cut() -> None:
    video = encoded(PICTURES, None, ["word " * 3000 + str(second) for second in range(5)])
    assert len(read_subtitles(video)) == MOST_CHARACTERS
