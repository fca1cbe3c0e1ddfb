"""Four contents of each modality, for tests that cover every family."""

import io
from collections.abc import Callable, Mapping
from types import MappingProxyType

from PIL import Image, ImageDraw, ImageFont

from lorabel.content_formats import SeriesFormat
from lorabel.contracts import Content, Input, MediaRef, Modality
from tests.audio_files import encoded, tone
from tests.series_scenes import burst
from tests.video_files import colour_video

COLOURS = ("red", "blue", "red", "blue")
FOUR = len(COLOURS)


def made_of(question: Input, number: int) -> Input:
    """The same question about the contents from `number` on, so that the contents of a question differ."""
    numbers = ((number + offset) % FOUR for offset in range(FOUR))
    contents = tuple(
        _content(content.modality, content_number)
        for content, content_number in zip(question.contents, numbers, strict=False)
    )
    return question.model_copy(update={"contents": contents})


def read(media: MediaRef) -> bytes:
    """The bytes of the file that a content of `made_of` refers to."""
    modality, _, number = media.url.partition("/")
    return FILES[Modality(modality)](int(number))


def _content(modality: Modality, number: int) -> Content:
    if modality == Modality.TEXT:
        return Content(modality=modality, text=f"something {COLOURS[number]}")
    media = MediaRef(url=f"{modality}/{number}")
    if modality == Modality.SERIES:
        return Content(
            modality=modality, media=media, series_format=SeriesFormat(channels=("1",), time_column="0")
        )
    return Content(modality=modality, media=media)


def _picture(number: int) -> bytes:
    """A picture of one colour that says its name, for families that read."""
    file = io.BytesIO()
    picture = Image.new("RGB", (40, 40), COLOURS[number])
    ImageDraw.Draw(picture).text((3, 10), COLOURS[number], "white", ImageFont.load_default(16))
    picture.save(file, "PNG")
    return file.getvalue()


def _video(number: int) -> bytes:
    return colour_video(COLOURS[number])


def _sound(number: int) -> bytes:
    """A sound of high pitch where a picture would be red; the last two are longer than a tiny model's window."""
    pitch_hz = 2000 if COLOURS[number] == "red" else 200
    return encoded(tone(pitch_hz, length_s=0.5 if number < 2 else 1.5))


def _series(number: int) -> bytes:
    """A burst at the beginning where a picture would be red, else at the end; the last two are longer."""
    points = 40 if number < 2 else 60
    return burst(0.0 if COLOURS[number] == "red" else 0.5, points)


FILES: Mapping[Modality, Callable[[int], bytes]] = MappingProxyType(
    {Modality.IMAGE: _picture, Modality.VIDEO: _video, Modality.AUDIO: _sound, Modality.SERIES: _series}
)
