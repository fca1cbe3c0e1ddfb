"""The bytes of a video file -> the text of its first track of subtitles, without decoding pictures or sound."""

import re

from lorabel.errors import UnreadableError
from lorabel.media.container import opened
from lorabel.media.deadline import check_deadline

# FFmpeg's names of formats whose packets are texts. `mov_text` has the length of the text in its first two bytes,
# and `ass` eight fields before it.
TEXTS = frozenset({"mov_text", "subrip", "srt", "webvtt", "text", "ass", "ssa"})
ASS_FIELDS = 8
MARKUP = re.compile(r"<[^>]*>|\{\\[^}]*\}")
MOST_CHARACTERS = 20_000


def read_subtitles(data: bytes) -> str:
    """Return what the subtitles of a video say, in the order of time; "" if it has none that are texts.

    Several tracks are mostly translations, so the first one with a text is read.
    """
    try:
        with opened(data, "video") as track:
            for stream in track.container.streams:
                if stream.type == "subtitle" and stream.name in TEXTS:
                    track.container.seek(0)
                    if text := _text(track.container.demux(stream), stream.name):
                        return text
    except UnreadableError as error:
        if not error.is_permanent:
            raise
        return ""  # the file holds no pictures; what is wrong with it is said where they are decoded
    return ""


def _text(packets: object, codec: str) -> str:
    lines: list[str] = []
    for packet in packets:  # type: ignore[attr-defined]
        check_deadline()
        line = _line(bytes(packet), codec)
        if line and (not lines or lines[-1] != line):
            lines.append(line)
        if sum(map(len, lines)) > MOST_CHARACTERS:
            break
    return "\n".join(lines)[:MOST_CHARACTERS]


def _line(data: bytes, codec: str) -> str:
    if codec == "mov_text":
        data = data[2 : 2 + int.from_bytes(data[:2], "big")]
    text = data.decode(errors="replace")
    if codec in ("ass", "ssa"):
        text = text.split(",", ASS_FIELDS)[-1].replace("\\N", " ").replace("\\n", " ")
    return " ".join(MARKUP.sub("", text).split())
