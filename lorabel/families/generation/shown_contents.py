"""Which pictures a question for a model that writes has: its pictures, and frames of its videos."""

from collections.abc import Iterator

from lorabel.contracts import Input, Modality
from lorabel.families.base import DigestOf, Fetch
from lorabel.families.generation.pictures import Picture, PictureReader, frame_digest


def picture_count(question: Input, video_frames: int) -> int:
    """Return how many pictures a question has; each frame that is read of a video is one."""
    modalities = [content.modality for content in question.contents]
    return modalities.count(Modality.IMAGE) + video_frames * modalities.count(Modality.VIDEO)


def picture_digests(question: Input, digest_of: DigestOf, video_frames: int) -> list[str] | None:
    """Return the digests of all pictures in the order of the prompt; None if that of a file is not known."""
    digests: list[str] = []
    for content in question.contents:
        if content.media is None:
            continue
        file_digest = digest_of(content.media)
        if file_digest is None:
            return None
        is_video = content.modality == Modality.VIDEO
        digests += [frame_digest(file_digest, n) for n in range(video_frames)] if is_video else [file_digest]
    return digests


def read_pictures(question: Input, fetch: Fetch, reader: PictureReader) -> Iterator[Picture]:
    """Read all pictures of a question, in the order of the prompt; see `PictureReader.read`."""
    count = picture_count(question, reader.settings.generator_video_frames)
    for content in question.contents:
        if content.media is None or content.modality not in (Modality.IMAGE, Modality.VIDEO):
            continue
        file = fetch(content.media)
        if content.modality == Modality.VIDEO:
            yield from reader.read_video(file, count)
        else:
            yield reader.read(file, count)
