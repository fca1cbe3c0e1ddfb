"""Segments of drawn videos, found by the demo's model: its features against open_clip's, and what heads learn."""

import io
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import av
import numpy as np
import open_clip
import pytest
import torch

from lorabel.contracts import Content, LabelsInput, MediaRef, Modality
from lorabel.demo import MODEL_FOLDER
from lorabel.errors import UnreadableError
from lorabel.evaluation.segment_metrics import segment_metrics
from lorabel.families.base import NO_BATCH_ADAPTERS
from lorabel.families.cache import DECODED, FEATURES, TEXTS, FeatureCache
from lorabel.families.detection.frames import read_frames
from lorabel.families.dual_encoder import DualEncoder
from lorabel.families.encoders.heads.fit import Example, fit_head
from lorabel.families.encoders.heads.linear_head import LinearHead
from lorabel.media.container import Track
from lorabel.media.fetching import digest
from lorabel.media.kept_frames import shared_frames
from lorabel.settings import Settings
from lorabel.time_contracts import SegmentScores, SegmentsInput, SegmentTarget
from lorabel.track_contracts import FrameBoxesInput
from tests import audio_files
from tests.audio_files import tone
from tests.video_files import encoded
from tests.video_scenes import FRAMES_PER_S, NAMES, Marked, drawn_frames, drawn_video

pytestmark = pytest.mark.slow

SOURCE = f"local-dir:{MODEL_FOLDER}"
QUESTION = SegmentsInput(
    contents=(Content(modality=Modality.VIDEO, media=MediaRef(url="x")),), labels=tuple((name,) for name in NAMES)
)
LEARNED, UNSEEN = range(8), range(100, 108)


def load(**settings: Any) -> DualEncoder:
    return DualEncoder.load(SOURCE, torch.device("cpu"), torch.float32, Settings(**settings))


@pytest.fixture(scope="module")
def family() -> DualEncoder:
    return load()


@pytest.fixture(scope="module")
def head(family: DualEncoder) -> LinearHead:
    """Fitted on the videos of LEARNED as annotators mark them."""
    drawn = [drawn_video(number) for number in LEARNED]
    examples = [
        Example.of(QUESTION, features_of(family, video), SegmentTarget(tuple(marked))) for video, marked in drawn
    ]
    fitted = fit_head(examples, family.space)
    assert fitted is not None
    return fitted


def prepare(family: DualEncoder, video: bytes, question: SegmentsInput = QUESTION) -> Any:
    return family.prepare(question, lambda _: video)


def features_of(family: DualEncoder, video: bytes, question: SegmentsInput = QUESTION) -> Any:
    asked = family.for_features(prepare(family, video, question), None)
    return family.predict([asked], [None], NO_BATCH_ADAPTERS, FeatureCache({}))[0]


def answers(
    family: DualEncoder, videos: Sequence[bytes], head: LinearHead | None = None
) -> Sequence[SegmentScores]:
    inputs = [family.with_head(prepare(family, video), head) for video in videos]
    return family.predict(inputs, [None] * len(inputs), NO_BATCH_ADAPTERS, FeatureCache({}))  # type: ignore[return-value]


def figures_of(outputs: Sequence[SegmentScores], truth: Sequence[Sequence[Marked]]) -> dict[str, Any]:
    predicted = [[(found.start_s, found.end_s, found.label) for found in output.segments] for output in outputs]
    return segment_metrics(truth, predicted, NAMES, [FRAMES_PER_S] * len(truth)).values


def test_windows_have_the_features_that_open_clip_computes_for_the_frame_at_each_step(family: DualEncoder) -> None:
    """Steps of 0.25 s are 6 frames."""
    video, _ = drawn_video(0)
    windows = Example.of(QUESTION, features_of(family, video), SegmentTarget(())).features
    model, transform = open_clip.create_model_from_pretrained(SOURCE)
    with av.open(io.BytesIO(video)) as container, torch.inference_mode():
        shown = [frame.to_image() for frame in container.decode(video=0)][::6]
        pictures = torch.stack([transform(picture) for picture in shown])
        expected = torch.nn.functional.normalize(model.eval().encode_image(pictures), dim=-1).numpy()
    assert len(windows) == 25 and len(expected) == 24
    np.testing.assert_allclose(windows[:24], expected, atol=2e-3)


def test_a_head_finds_in_unseen_videos_what_annotators_marked_in_eight_others(
    family: DualEncoder, head: LinearHead
) -> None:
    drawn = [drawn_video(number) for number in UNSEEN]
    videos, truth = [video for video, _ in drawn], [marked for _, marked in drawn]
    before = figures_of(answers(family, videos), truth)
    after = figures_of(answers(family, videos, head), truth)
    assert after["f1"] > max(0.75, before["f1"] + 0.3), (before, after)
    assert after["boundary_error_frames"] < 3, "windows are 6 frames apart"


def test_labels_that_are_seen_together_are_both_found(family: DualEncoder, head: LinearHead) -> None:
    marked = [(1.0, 4.0, 1), (2.0, 3.0, 2)]
    frames = drawn_frames(marked, 5 * FRAMES_PER_S, FRAMES_PER_S, np.random.default_rng(0))
    (output,) = answers(family, [encoded(frames, frames_per_s=FRAMES_PER_S)], head)
    assert [found.label for found in output.segments] == [1, 2]
    spans = [(found.start_s, found.end_s) for found in output.segments]
    np.testing.assert_allclose(spans, [(1.0, 4.0), (2.0, 3.0)], atol=0.25)


def test_a_video_is_recalled_without_its_file_for_the_same_steps(family: DualEncoder, head: LinearHead) -> None:
    cache = FeatureCache({FEATURES: 10**7, DECODED: 10**8, TEXTS: 10**7})
    video, _ = drawn_video(3)

    def recalled(question: SegmentsInput = QUESTION) -> Any:
        return family.recall(question, lambda _: digest(video), None, NO_BATCH_ADAPTERS, cache)

    assert recalled() is None
    assert family.batch_rows(prepare(family, video)) == 25
    (expected,) = family.predict([prepare(family, video)], [None], NO_BATCH_ADAPTERS, cache)
    assert family.answer(recalled(), None, NO_BATCH_ADAPTERS, cache) == expected
    assert family.batch_rows(recalled()) == 1, "nothing is encoded"
    with_head = family.answer(family.with_head(recalled(), head), None, NO_BATCH_ADAPTERS, cache)
    assert with_head == answers(family, [video], head)[0] != expected
    assert recalled(QUESTION.model_copy(update={"step_s": 0.5})) is None
    assert cache.figures()[DECODED]["bytes"] == 0, "frames are parts of a video that is decoded as a whole"


@pytest.mark.long
def test_smaller_steps_find_boundaries_better(family: DualEncoder) -> None:
    errors = []
    for step_s in (0.5, 1 / FRAMES_PER_S):
        question = QUESTION.model_copy(update={"step_s": step_s})
        drawn = [drawn_video(number) for number in (*LEARNED[:4], *UNSEEN[:2])]
        examples = [
            Example.of(question, features_of(family, video, question), SegmentTarget(tuple(marked)))
            for video, marked in drawn[:4]
        ]
        fitted = fit_head(examples, family.space)
        inputs = [family.with_head(prepare(family, video, question), fitted) for video, _ in drawn[4:]]
        outputs = family.predict(inputs, [None, None], NO_BATCH_ADAPTERS, FeatureCache({}))
        errors.append(figures_of(outputs, [marked for _, marked in drawn[4:]])["boundary_error_ms"])  # type: ignore[arg-type]
    assert errors[1] < 0.5 * errors[0], errors


def test_a_long_video_is_searched_from_its_beginning_and_its_length_is_known(head: LinearHead) -> None:
    frames = drawn_frames([(0.5, 5.0, 0)], 5 * FRAMES_PER_S, FRAMES_PER_S, np.random.default_rng(0))
    (output,) = answers(load(segments_max_s=2.0), [encoded(frames, frames_per_s=FRAMES_PER_S)], head)
    assert output.length_s == pytest.approx(5.0, abs=0.01)
    assert output.segments and max(found.end_s for found in output.segments) == 2.0


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_very_short_video_is_answered(family: DualEncoder, head: LinearHead, count: int) -> None:
    frames = drawn_frames([(0.0, 1.0, 0)], count, FRAMES_PER_S, np.random.default_rng(0))
    (output,) = answers(family, [encoded(frames, frames_per_s=FRAMES_PER_S)], head)
    assert output.length_s == pytest.approx(count / FRAMES_PER_S, abs=1e-3)
    assert all(0 <= found.start_s < found.end_s <= output.length_s for found in output.segments)


def test_a_video_without_frames_or_a_broken_one_has_a_reason(family: DualEncoder) -> None:
    sound = audio_files.encoded(tone(440), "aac", "mp4")
    for file in (sound, drawn_video(0)[0][:700], b"no video", b""):
        with pytest.raises(UnreadableError) as error:
            prepare(family, file)
        assert error.value.is_permanent and str(error.value)


def test_all_questions_of_a_task_about_a_video_decode_its_frames_once(
    family: DualEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it shows as a whole, when something is seen, and how things move, for which windows are looked at."""
    counts: Counter[int] = Counter()
    frames = Track.frames

    def counted(track: Track, keyframe: int) -> Iterator[Any]:
        for frame in frames(track, keyframe):
            counts[frame.pts] += 1
            yield frame

    monkeypatch.setattr(Track, "frames", counted)
    drawn, _ = drawn_video(500)
    with shared_frames():
        prepare(family, drawn, QUESTION)
        family.prepare(LabelsInput(contents=QUESTION.contents, labels=QUESTION.labels), lambda _: drawn)
        window, windows = 0, 1
        while window < windows:
            asked = FrameBoxesInput(
                contents=QUESTION.contents, labels=QUESTION.labels, frames_per_s=FRAMES_PER_S, window=window
            )
            found = read_frames(asked, drawn, 64, lambda _: (torch.zeros(3, 64, 64), (1.0, 1.0)), family.settings)
            window, windows = window + 1, found.windows
    assert windows > 3 and len(counts) == 6 * FRAMES_PER_S
    assert set(counts.values()) == {1}
