"""Several questions about a video: its frames are decoded once, and all get the pictures that they get alone."""

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from lorabel.errors import UnreadableError
from lorabel.media import kept_frames
from lorabel.media.container import Track
from lorabel.media.deadline import deadline
from lorabel.media.decode_memory import MEGABYTE, DecodeMemory
from lorabel.media.kept_frames import shared_frames
from lorabel.media.video import decode_beginning, decode_video, numbered_frames
from tests.video_files import brightening, encoded

MOST_MEGAPIXELS = 10
COUNT, FRAMES_PER_S = 60, 20
Pictures = list[NDArray[np.uint8]]


def as_a_whole(data: bytes, memory: DecodeMemory | None) -> Pictures:
    return [np.asarray(image) for image in decode_video(data, 8, 0.0, MOST_MEGAPIXELS, memory=memory)]


def at_each_step(data: bytes, memory: DecodeMemory | None) -> Pictures:
    return list(decode_beginning(data, 0.25, 120.0, np.asarray, MOST_MEGAPIXELS, memory=memory).frames)


def in_windows(data: bytes, memory: DecodeMemory | None) -> Pictures:
    pictures: Pictures = []
    for first in range(1, COUNT, 16):
        with numbered_frames(data, FRAMES_PER_S, MOST_MEGAPIXELS, memory=memory) as video:
            pictures += [np.asarray(image) for image in video.pictures(range(first, first + 16, 4))]
    return pictures


QUESTIONS = (as_a_whole, at_each_step, in_windows)


@pytest.fixture(autouse=True)
def _several_questions() -> Iterator[None]:
    with shared_frames():
        yield


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """Moment of a frame -> how often it was decoded."""
    counts: Counter[int] = Counter()
    frames = Track.frames

    def counted(track: Track, keyframe: int) -> Iterator[Any]:
        for frame in frames(track, keyframe):
            counts[frame.pts] += 1
            yield frame

    monkeypatch.setattr(Track, "frames", counted)
    return counts


def video(keyframe_every: int = 12) -> bytes:
    return encoded(brightening(COUNT), frames_per_s=FRAMES_PER_S, keyframe_every=keyframe_every)


def memory() -> DecodeMemory:
    return DecodeMemory(2048 * MEGABYTE)


@pytest.mark.parametrize("order", [QUESTIONS, QUESTIONS[::-1], (at_each_step, as_a_whole, in_windows)])
@pytest.mark.parametrize("keyframe_every", [12, 1000])
def test_each_frame_is_decoded_once_for_all_questions(
    decoded: Counter[int], keyframe_every: int, order: Sequence[Any]
) -> None:
    data, shared = video(keyframe_every), memory()
    alone = [question(data, None) for question in order]
    assert max(decoded.values()) > 2, "alone they decode the same frames"
    decoded.clear()
    together = [question(data, shared) for question in order]
    # A window ends where the decoder gives the next keyframe, with which the next one begins.
    again = 0 if keyframe_every > COUNT or order[0] != in_windows else COUNT // 16
    assert len(decoded) == COUNT and sum(decoded.values()) <= COUNT + again
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)


def test_questions_at_the_same_time_decode_each_frame_once(decoded: Counter[int]) -> None:
    data, shared = video(), memory()

    def ask(question: Any) -> None:
        with shared_frames():
            question(data, shared)

    threads = [threading.Thread(target=ask, args=(question,)) for question in 3 * QUESTIONS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # Where windows come first, keyframes are decoded again, see above.
    assert len(decoded) == COUNT and sum(decoded.values()) <= COUNT + COUNT // 16
    assert not shared.kept._turns and shared.reserved_bytes == 0


@pytest.mark.parametrize("limit", ["frames", "bytes"])
def test_long_videos_are_not_kept_and_nobody_waits(monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    data, shared = video(), memory()
    if limit == "frames":
        monkeypatch.setattr(kept_frames, "MOST_KEPT", COUNT - 1)
    else:
        shared.kept.most_bytes = COUNT * 64 * 48
    first = decode_video(data, 8, 0.0, MOST_MEGAPIXELS, memory=shared)
    next(first)
    np.testing.assert_array_equal(as_a_whole(data, shared), as_a_whole(data, None))
    first.close()  # type: ignore[attr-defined]
    assert shared.kept.nbytes == 0 and shared.reserved_bytes == 0


def test_kept_frames_give_their_memory_to_who_needs_it(decoded: Counter[int]) -> None:
    data, shared = video(), memory()
    as_a_whole(data, shared)
    size = shared.kept.nbytes
    assert size == pytest.approx(COUNT * 64 * 48 * 1.5, rel=0.1)
    with shared.reserve(shared.limit_bytes // 2):
        assert shared.kept.nbytes == size, "there is room for both"
    with shared.reserve(shared.most_bytes), shared.reserve(shared.limit_bytes // 8):
        assert shared.kept.nbytes == 0
        assert not shared.keep(("", 1), kept_frames.KeptVideo(1.0, 0, 1, [0], 1, size))
    decoded.clear()
    as_a_whole(data, shared)
    assert decoded, "it was decoded again"


def test_the_video_that_was_not_used_for_longest_makes_room(decoded: Counter[int]) -> None:
    videos = [video(every) for every in (10, 20, 30)]
    shared = memory()
    as_a_whole(videos[0], shared)
    shared.kept.most_bytes = int(2.5 * shared.kept.nbytes)
    for data in (videos[1], videos[0], videos[2]):
        as_a_whole(data, shared)
    decoded.clear()
    as_a_whole(videos[0], shared)
    assert not decoded
    as_a_whole(videos[1], shared)
    assert decoded


def test_who_waits_for_a_video_stops_at_the_deadline() -> None:
    data, shared = video(), memory()
    first = decode_video(data, 8, 0.0, MOST_MEGAPIXELS, memory=shared)
    next(first)

    def wait() -> None:
        with shared_frames(), deadline(0.0), pytest.raises(UnreadableError) as raised:
            as_a_whole(data, shared)
        assert not raised.value.is_permanent
        seen.append(True)

    seen: list[bool] = []
    thread = threading.Thread(target=wait)
    thread.start()
    thread.join()
    first.close()  # type: ignore[attr-defined]
    assert seen and as_a_whole(data, shared)


def test_for_a_question_alone_nothing_is_kept() -> None:
    data, shared = video(), memory()
    with shared_frames(False):
        as_a_whole(data, shared)
    assert shared.kept.nbytes == 0


def test_a_broken_part_is_left_out_as_without_keeping() -> None:
    data = bytearray(video(1000))
    data[len(data) // 2 : len(data) // 2 + 40] = b"\0" * 40
    broken, shared = bytes(data), memory()
    for question in QUESTIONS:
        np.testing.assert_array_equal(question(broken, None), question(broken, shared))


def test_a_video_that_is_kept_no_longer_takes_no_more_frames() -> None:
    """Nothing would count them, and the memory was wanted for something else."""
    shared = memory()
    with numbered_frames(video(), FRAMES_PER_S, MOST_MEGAPIXELS, memory=shared) as opened:
        first = [np.asarray(image) for image in opened.pictures([2])]
        (kept,) = shared.kept._videos.values()
        assert kept.parts
        shared.kept.clear()
        later = [np.asarray(image) for image in opened.pictures([45])]
        assert not kept.parts
    assert first[0].mean() < later[0].mean()
