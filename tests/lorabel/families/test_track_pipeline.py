"""The demo's detector on drawn videos whose tracks are known."""

from collections.abc import Sequence

import pytest
import torch

from lorabel.contracts import Content, MediaRef, Modality
from lorabel.demo import DETECTOR_FOLDER
from lorabel.errors import UnreadableError
from lorabel.evaluation.track_metrics import track_metrics
from lorabel.families.base import NO_BATCH_ADAPTERS
from lorabel.families.cache import FeatureCache
from lorabel.families.detection.frames import looked_at
from lorabel.families.encoders.heads.fit import Example, fit_head
from lorabel.families.track_pipeline import TrackPipeline
from lorabel.feature_contracts import Features
from lorabel.settings import Settings
from lorabel.track_contracts import Keyframe, Track, Tracks, TracksInput, TracksTarget
from tests.audio_files import encoded as encoded_sound
from tests.audio_files import tone
from tests.moving_scenes import CROSSING, MovingScene, random_scenes
from tests.video_files import encoded

NAMES = ("red circle", "blue square", "green star")
GRADE = "grade A"

pytestmark = pytest.mark.slow


def load(settings: Settings | None = None) -> TrackPipeline:
    source = f"local-dir:{DETECTOR_FOLDER}"
    return TrackPipeline.load(source, torch.device("cpu"), torch.float32, settings or Settings())


@pytest.fixture(scope="module")
def tracker() -> TrackPipeline:
    return load()


def question(labels: Sequence[str] = NAMES, learned: tuple[int, ...] = ()) -> TracksInput:
    video = Content(modality=Modality.VIDEO, media=MediaRef(url="video"))
    return TracksInput(
        contents=(video,), labels=tuple((label,) for label in labels), frames_per_s=25, learned=learned
    )


def found(tracker: TrackPipeline, scene: MovingScene, labels: Sequence[str] = NAMES) -> Tracks:
    prepared = tracker.prepare(question(labels), lambda _: scene.video)
    (output,) = tracker.predict([prepared], [None], NO_BATCH_ADAPTERS, FeatureCache({}))
    assert isinstance(output, Tracks)
    return output


def idf1(targets: Sequence[TracksTarget], outputs: Sequence[Tracks], labels: Sequence[str] = NAMES) -> float:
    shown = [[track for track in output.tracks if track.probability >= output.threshold] for output in outputs]
    return float(track_metrics(targets, shown, labels).values["idf1"])


def test_three_things_that_cross_are_followed_and_one_of_them_leaves(tracker: TrackPipeline) -> None:
    output = found(tracker, CROSSING)
    assert (output.frames, output.length_s) == (300, pytest.approx(12.0))
    assert idf1([TracksTarget(CROSSING.tracks(NAMES), 300)], [output]) >= 0.9
    longest = {
        label: max((track for track in output.tracks if track.label == label), key=_length) for label in range(3)
    }
    star = longest[NAMES.index("green star")]
    last = max(frame for frame in range(1, 301) if CROSSING.movers[2].corners(frame) is not None)
    assert not star.keyframes[-1].is_seen and abs(star.keyframes[-1].frame - last) <= 15
    assert all(longest[label].at(300) is not None for label in (0, 1))
    assert all(len(track.keyframes) <= 15 for track in output.tracks), "few keyframes"


def _length(track: object) -> int:
    keyframes = track.keyframes  # type: ignore[attr-defined]
    return int(keyframes[-1].frame - keyframes[0].frame)


def test_the_windows_of_a_long_video_give_what_one_window_gives(
    tracker: TrackPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = found(tracker, CROSSING)
    monkeypatch.setattr("lorabel.families.detection.frames.MOST_IN_WINDOW", 7)
    in_windows = found(tracker, CROSSING)
    assert in_windows.frames == whole.frames
    assert [track.label for track in in_windows.tracks] == [track.label for track in whole.tracks]
    for track, other in zip(in_windows.tracks, whole.tracks, strict=True):
        assert [key.frame for key in track.keyframes] == [key.frame for key in other.keyframes]


def test_a_project_that_shows_unlikely_things_has_tracks_begin_with_them() -> None:
    """Nothing is as likely as the setting says. A project's threshold above the setting changes nothing here."""
    scene, strict = random_scenes(11, 1)[0], load(Settings(detector_threshold=1.0))

    def tracks(tracker: TrackPipeline, threshold: float | None) -> Tracks:
        asked = question().model_copy(update={"threshold": threshold})
        prepared = tracker.prepare(asked, lambda _: scene.video)
        (output,) = tracker.predict([prepared], [None], NO_BATCH_ADAPTERS, FeatureCache({}))
        assert isinstance(output, Tracks)
        return output

    usual = load()
    assert not tracks(strict, None).tracks
    assert tracks(strict, 0.2) == tracks(usual, None) == tracks(usual, 0.7)
    assert len(tracks(usual, 0.02).tracks) >= len(tracks(usual, None).tracks) > 0


def test_in_a_long_video_frames_are_looked_at_further_apart() -> None:
    settings = Settings(tracks_max_frames=31)
    tracker, numbers = load(settings), looked_at(300, 25.0, settings)
    assert len(numbers) <= 32 and (numbers[0], numbers[-1]) == (1, 300)
    assert idf1([TracksTarget(CROSSING.tracks(NAMES), 300)], [found(tracker, CROSSING)]) >= 0.8


@pytest.mark.long
def test_a_head_learns_from_annotated_tracks_what_a_label_means_that_no_words_say(tracker: TrackPipeline) -> None:
    labels = [GRADE, "blue square"]
    scenes = random_scenes(3, 9)
    targets = [_graded(scene, labels) for scene in scenes]
    examples = []
    for scene, target in zip(scenes[:3], targets[:3], strict=True):
        asked = tracker.for_features(tracker.prepare(question(labels), lambda _, s=scene: s.video), target)  # type: ignore[misc]
        (features,) = tracker.predict([asked], [None], NO_BATCH_ADAPTERS, FeatureCache({}))
        assert isinstance(features, Features)
        examples.append(Example.of(question(labels), features, target))
    head = fit_head(examples, tracker.space)
    assert head is not None
    tested = list(zip(scenes[3:], targets[3:], strict=True))
    before = [found(tracker, scene, labels) for scene, _ in tested]
    after = []
    for scene, _ in tested:
        prepared = tracker.with_head(tracker.prepare(question(labels), lambda _, s=scene: s.video), head)  # type: ignore[misc]
        (output,) = tracker.predict([prepared], [None], NO_BATCH_ADAPTERS, FeatureCache({}))
        after.append(output)
    truth = [target for _, target in tested]
    figures = idf1(truth, before, labels), idf1(truth, after, labels)  # type: ignore[arg-type]
    assert figures[1] >= 0.7 > figures[0] + 0.1, figures


def test_a_box_drawn_in_one_frame_becomes_a_track_forwards_and_backwards(tracker: TrackPipeline) -> None:
    """The words of the label say nothing; the head has the one box to go by."""
    labels = ["part 17"]
    whole = TracksTarget(CROSSING.tracks(["red circle"]), CROSSING.frames)
    drawn = Keyframe(frame=100, corners=whole.tracks[0].at(100) or (0, 0, 0, 0))
    target = TracksTarget((Track(label=0, keyframes=(drawn,)),), CROSSING.frames)
    prepared = tracker.prepare(question(labels), lambda _: CROSSING.video)
    asked = tracker.for_features(prepared, target)
    (features,) = tracker.predict([asked], [None], NO_BATCH_ADAPTERS, FeatureCache({}))
    assert isinstance(features, Features)
    head = fit_head([Example.of(question(labels), features, target)], tracker.space)
    headed = tracker.with_head(prepared, head)
    before, after = (
        tracker.predict([each], [None], NO_BATCH_ADAPTERS, FeatureCache({}))[0] for each in (prepared, headed)
    )
    assert isinstance(before, Tracks) and isinstance(after, Tracks)
    likeliest = [output.model_copy(update={"tracks": output.tracks[:1]}) for output in (before, after)]
    assert idf1([whole], likeliest[:1], labels) < 0.5
    assert idf1([whole], likeliest[1:], labels) >= 0.9
    shown = [track for track in after.tracks if track.probability >= after.threshold]
    assert idf1([whole], [after.model_copy(update={"tracks": tuple(shown)})], labels) >= 0.9, (
        "and nothing beside it"
    )


def _graded(scene: MovingScene, labels: Sequence[str]) -> TracksTarget:
    """Red circles are of grade A."""
    names = ["red circle", *labels[1:]]
    return TracksTarget(scene.tracks(names), scene.frames)


@pytest.mark.parametrize(
    ("file", "reason"),
    [(b"no video", "no readable video"), (encoded_sound(tone(440, length_s=0.2), "aac", "mp4"), "but no video")],
)
def test_what_has_no_frames_is_refused_for_good(tracker: TrackPipeline, file: bytes, reason: str) -> None:
    with pytest.raises(UnreadableError, match=reason) as refused:
        tracker.prepare(question(), lambda _: file)
    assert refused.value.is_permanent


def test_a_video_that_breaks_off_is_followed_as_far_as_it_can_be_read(tracker: TrackPipeline) -> None:
    scene = random_scenes(8, 1)[0]
    pictures = [scene.picture(frame).draw() for frame in range(1, scene.frames + 1)]
    file = encoded(pictures, "libvpx", "webm", keyframe_every=5)
    prepared = tracker.prepare(question(), lambda _: file[: len(file) // 2])
    (output,) = tracker.predict([prepared], [None], NO_BATCH_ADAPTERS, FeatureCache({}))
    assert isinstance(output, Tracks)
    assert 10 < output.frames < 40
    assert all(track.keyframes[-1].frame <= output.frames for track in output.tracks)
