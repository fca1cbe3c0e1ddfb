"""Tracks over the model server's HTTP API: window by window, among the rows of others."""

import weakref
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from concurrent.futures import Future
from math import inf
from pathlib import Path
from typing import Any

import pytest
import torch
from flask import Flask
from prometheus_client import CollectorRegistry

from lorabel.contracts import Content, MediaRef, Modality
from lorabel.demo import DETECTOR_FOLDER
from lorabel.demo.scenes import png
from lorabel.families.base import NO_BATCH_ADAPTERS
from lorabel.families.cache import FeatureCache
from lorabel.families.track_pipeline import TrackPipeline, with_followed
from lorabel.families.tracker import FollowingSteps, Tracker
from lorabel.inference import request_body
from lorabel.inference.messages import PredictRequest, PredictResponse, PredictRow, Priority, RowResult
from lorabel.media import container
from lorabel.media.decode_memory import decode_memory
from lorabel.settings import Settings
from lorabel.space_contracts import Boxes, BoxesInput
from lorabel.track_contracts import (
    FollowedTracksInput,
    FrameBoxes,
    FrameBoxesInput,
    Keyframe,
    Track,
    Tracks,
    TracksInput,
)
from model_server.app import create_app
from model_server.engine import Engine
from model_server.metrics import Metrics
from model_server.pipelines import begin
from model_server.rows import Row, batch_rows, shared_videos
from tests.e2e.courses import data_url
from tests.moving_scenes import random_scenes
from tests.questions import row

pytestmark = pytest.mark.slow

MODELS = {"detector": f"local-dir:{DETECTOR_FOLDER}"}
LABELS = (("red circle",), ("blue square",))
SCENES = random_scenes(11, 2)
URLS = [data_url(scene.video, "video/mp4") for scene in SCENES]


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Flask]:
    monkeypatch.setattr("lorabel.families.detection.frames.MOST_IN_WINDOW", 4)
    settings = Settings(data_dir=tmp_path, models=MODELS, families="", device="cpu", precision="float32")
    app = create_app(settings)
    yield app
    app.extensions["engine"].close()


@pytest.fixture
def tracking_app(tmp_path: Path) -> Iterator[Flask]:
    models = MODELS | {"tracker": Tracker.tiny(tmp_path / "tracker")}
    app = create_app(Settings(data_dir=tmp_path, models=models, families="", device="cpu", precision="float32"))
    yield app
    app.extensions["engine"].close()


def about(url: str) -> TracksInput:
    video = Content(modality=Modality.VIDEO, media=MediaRef(url=url))
    return TracksInput(contents=(video,), labels=LABELS, frames_per_s=25)


def predict(app: Flask, rows: Sequence[PredictRow]) -> list[RowResult]:
    body = request_body.encode(PredictRequest(rows=list(rows), timeout_s=60))
    answer = app.test_client().post("/v1/predict", data=body)
    assert answer.status_code == 200, answer.text
    return PredictResponse.model_validate_json(answer.data).rows


def test_tracks_are_those_of_the_family_alone_and_a_broken_video_fails_alone(app: Flask) -> None:
    picture = Content(
        modality=Modality.IMAGE, media=MediaRef(url=data_url(png(SCENES[0].picture(1)), "image/png"))
    )
    questions = [
        about(URLS[0]),
        about(data_url(b"no video", "video/mp4")),
        BoxesInput(contents=(picture,), labels=LABELS),
        about(URLS[1]),
    ]
    results = predict(app, [row(question) for question in questions])
    assert results[1].error is not None and results[1].error.is_permanent
    assert "no readable video" in results[1].error.reason
    assert Boxes.model_validate(results[2].output).boxes
    family = TrackPipeline.load(MODELS["detector"], torch.device("cpu"), torch.float32, Settings())
    for scene, result, question in zip(SCENES, results[::3], questions[::3], strict=True):
        prepared = family.prepare(question, lambda _, scene=scene: scene.video)  # type: ignore[misc, arg-type]
        (expected,) = family.predict([prepared], [None], NO_BATCH_ADAPTERS, FeatureCache({}))
        assert isinstance(expected, Tracks)
        tracks = Tracks.model_validate(result.output)
        assert (tracks.frames, tracks.length_s) == (expected.frames, expected.length_s) == (50, 2.0)
        assert [track.label for track in tracks.tracks] == [track.label for track in expected.tracks]
        for track, other in zip(tracks.tracks, expected.tracks, strict=True):
            assert [key.frame for key in track.keyframes] == [key.frame for key in other.keyframes]
            assert track.probability == pytest.approx(other.probability, abs=1e-3)


def test_windows_of_a_bulk_run_go_one_by_one_so_that_others_go_in_between(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = app.extensions["engine"]
    frames: list[int] = []
    counted: list[int] = []
    windows: list[weakref.ref[object]] = []
    alive: list[int] = []
    forward = Engine._forward

    def noted(self: Engine, batch: list[Row]) -> object:
        frames.append(sum(len(each.example.pictures) for each in batch))
        counted.append(batch_rows(batch))
        alive.append(sum(reference() is not None for reference in windows))
        windows.extend(weakref.ref(each.example) for each in batch)
        return forward(self, batch)

    monkeypatch.setattr(Engine, "_forward", noted)
    request = PredictRequest(rows=[row(about(URLS[0]))], timeout_s=60, project=1, priority=Priority.BULK)
    (waiting,) = engine.submit(request)
    assert Tracks.model_validate(waiting.result(60).output).tracks
    assert frames == counted == [4, 4, 3], "eleven frames in windows of four"
    assert alive == [0, 0, 0], "the frames of a window are in memory until it is answered"


def test_a_begun_track_is_followed_beside_what_the_detector_finds(tracking_app: Flask, tmp_path: Path) -> None:
    corners = (0.2, 0.2, 0.6, 0.7)
    begun = Track(label=1, keyframes=(Keyframe(frame=11, corners=corners),))
    questions = [about(URLS[0]), about(URLS[0]).model_copy(update={"begun": (begun,)})]
    plain, going_on = (
        Tracks.model_validate(each.output) for each in predict(tracking_app, [*map(row, questions)])
    )
    family = Tracker.load(f"local-dir:{tmp_path / 'tracker'}", torch.device("cpu"), torch.float32, Settings())
    question = FollowedTracksInput(contents=questions[0].contents, frames_per_s=25, begun=(begun,))
    prepared = family.prepare(question, lambda _: SCENES[0].video)
    (expected,) = family.predict([prepared], [None], NO_BATCH_ADAPTERS, FeatureCache({}))
    assert isinstance(expected, Tracks)
    (followed,) = expected.tracks
    assert followed.label == 1 and followed.at(11) is not None
    others = [track.keyframes for track in going_on.tracks if track.keyframes != followed.keyframes]
    assert len(others) == len(going_on.tracks) - 1
    assert others == [track.keyframes for track in plain.tracks if track.keyframes in others]
    assert all(track.probability >= going_on.threshold for track in going_on.tracks if track.label == 1)


@pytest.mark.parametrize("is_late", [False, True])
def test_what_the_detector_found_is_answered_if_the_tracker_fails_or_is_too_slow(
    tracking_app: Flask, monkeypatch: pytest.MonkeyPatch, is_late: bool
) -> None:
    def fail(steps: FollowingSteps) -> Sequence[Hashable]:
        if not is_late:
            raise RuntimeError("no kernel for this device")
        for waiting in steps.rows:
            waiting.deadline = -inf  # type: ignore[attr-defined]
        return []

    monkeypatch.setattr(FollowingSteps, "step", fail)
    begun = Track(label=1, keyframes=(Keyframe(frame=11, corners=(0.2, 0.2, 0.6, 0.7)),))
    questions = [about(URLS[0]), about(URLS[0]).model_copy(update={"begun": (begun,)})]
    plain, going_on = predict(tracking_app, [*map(row, questions)])
    assert going_on.error is None and plain.output is not None and plain.output["tracks"]
    assert going_on == plain
    text = tracking_app.test_client().get("/metrics").text
    assert "lorabel_not_followed_total 1.0" in text


def test_what_the_detector_finds_where_a_begun_track_is_followed_is_the_same_thing() -> None:
    def track(label: int, left: float, frames: Sequence[int] = (1, 50)) -> Track:
        corners = (left, 0.2, left + 0.4, 0.6)
        keyframes = tuple(Keyframe(frame=frame, corners=corners) for frame in frames)
        return Track(label=label, keyframes=keyframes, probability=0.9 - left)

    found = Tracks(tracks=(track(0, 0.0), track(0, 0.5), track(1, 0.05)), frames=50, length_s=2, threshold=0.1)
    joined = with_followed(found, Tracks(tracks=(track(0, 0.06),), frames=50, length_s=2))
    assert joined.tracks == (track(1, 0.05), track(0, 0.06), track(0, 0.5))
    assert (joined.frames, joined.threshold) == (50, 0.1)


def test_the_tracker_is_asked_without_the_adapter_of_the_detector() -> None:
    begun = Track(label=1, keyframes=(Keyframe(frame=1, corners=(0.2, 0.2, 0.6, 0.7)),))
    question = about(URLS[0]).model_copy(update={"begun": (begun,)})
    boxes = FrameBoxes(
        numbers=(), boxes=(), dim=0, float16="", windows=1, frames=50, length_s=2, threshold=0.1, tolerance=0.01
    )
    answers = {
        FrameBoxesInput: boxes,
        FollowedTracksInput: Tracks(tracks=(begun,), frames=50, length_s=2),
    }
    asked: list[tuple[str, str | None]] = []

    def start(part: Row) -> None:
        asked.append((part.question.kind, part.adapter))
        part.finish(RowResult(output=answers[type(part.question)].model_dump()))

    whole = Row(question, "p1.v1/box", None, 1, Priority.BULK, inf, Future())
    begin(whole, start, Metrics(CollectorRegistry()))
    assert asked == [(FrameBoxesInput.kind, "p1.v1/box"), (FollowedTracksInput.kind, None)]
    assert [track.label for track in Tracks.model_validate(whole.done.result(0).output).tracks] == [1]


def test_a_video_that_several_rows_ask_about_is_decoded_once(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two control tags ask how things move, each window by window. A video of one row is not kept."""
    counts: Counter[tuple[int, int]] = Counter()
    frames = container.Track.frames

    def counted(track: container.Track, keyframe: int) -> Iterator[Any]:
        for frame in frames(track, keyframe):
            counts[track.end, frame.pts] += 1
            yield frame

    monkeypatch.setattr(container.Track, "frames", counted)
    with monkeypatch.context() as alone:
        alone.setattr("model_server.engine.shared_videos", lambda _: frozenset())
        expected = predict(app, [row(about(URLS[0])), row(about(URLS[0]))])
    assert max(counts.values()) > 2
    counts.clear()
    kept = decode_memory(Settings().media_decode_mb).kept
    kept.clear()
    assert predict(app, [row(about(URLS[0])), row(about(URLS[0]))]) == expected
    assert sum(counts.values()) <= 1.1 * len(counts)
    size = kept.nbytes
    predict(app, [row(about(URLS[1]))])
    assert kept.nbytes == size > 0
    assert shared_videos([row(about(url)) for url in (URLS[0], URLS[1], URLS[0])]) == {URLS[0]}
    assert (
        shared_videos([PredictRow(kind="tracks", input={"contents": wrong}) for wrong in (None, [1], [{}])])
        == set()
    )
