"""Tracks of drawn videos with the demo's detector: IDF1, HOTA, seconds and memory.

    python -m benchmarks.tracks [--videos 20]

First three things that cross, one of which leaves, through 300 frames. Then videos with things that look
different, with things that all look the same, and the first one ten times over. Beside the association of Lorabel
stand the same with less to go by: overlap with where the thing should be alone, and also the distance from there,
as SORT does, without looks. All get the same boxes.
"""

import argparse
import os
import time
from collections.abc import Sequence
from dataclasses import replace

import torch

from benchmarks.machine import describe
from benchmarks.resident_memory import ResidentMemory
from lorabel.contracts import Content, MediaRef, Modality
from lorabel.demo import DETECTOR_FOLDER
from lorabel.evaluation.track_metrics import track_metrics
from lorabel.families.base import NO_BATCH_ADAPTERS
from lorabel.families.cache import FeatureCache
from lorabel.families.track_pipeline import TrackPipeline, window_question
from lorabel.families.tracking.association import WEIGHTS, Weights
from lorabel.families.tracking.found_tracks import TrackFinder
from lorabel.settings import Settings
from lorabel.track_contracts import FrameBoxes, TracksInput, TracksTarget
from tests.moving_scenes import CROSSING, PAIRS, MovingScene, random_scenes
from tests.video_files import encoded

WAYS = {
    "overlap, distance and looks": WEIGHTS,
    "overlap and distance": Weights(look=0.0),
    "overlap": Weights(overlap=1.0, distance=0.0, look=0.0),
}
NAMES = tuple(f"{colour} {shape}" for colour, shape in PAIRS)
TIMES = 10


def windows_of(tracker: TrackPipeline, video: bytes) -> list[FrameBoxes]:
    """What the detector finds in each window."""
    question = TracksInput(
        contents=(Content(modality=Modality.VIDEO, media=MediaRef(url="video")),),
        labels=tuple((name,) for name in NAMES),
        frames_per_s=25,
    )
    found: list[FrameBoxes] = []
    while not found or len(found) < found[0].windows:
        prepared = tracker.detector.prepare(window_question(question, len(found)), lambda _: video)
        (output,) = tracker.detector.predict([prepared], [None], NO_BATCH_ADAPTERS, FeatureCache({}))
        found.append(FrameBoxes.model_validate(output))
    return found


def figures(scenes: Sequence[MovingScene], found: Sequence[Sequence[FrameBoxes]], weights: Weights) -> str:
    """IDF1, HOTA, and keyframes of a track, in the form of a row."""
    outputs = []
    for windows in found:
        finder = TrackFinder(25.0, weights)
        for window in windows:
            finder.add(window)
        outputs.append(finder.tracks())
    targets = [TracksTarget(scene.tracks(NAMES), scene.frames) for scene in scenes]
    shown = [[track for track in output.tracks if track.probability >= output.threshold] for output in outputs]
    values = track_metrics(targets, shown, NAMES).values
    true = sum(len(target.tracks) for target in targets)
    tracks = [track for of_video in shown for track in of_video]
    keyframes = sum(len(track.keyframes) for track in tracks) / max(1, len(tracks))
    return f"{values['idf1']:.3f} | {values['hota']:.3f} | {len(tracks)} of {true} | {keyframes:.1f}"


def alike(scene: MovingScene) -> MovingScene:
    """The scene with red circles alone."""
    return replace(scene, movers=tuple(replace(mover, colour="red", shape="circle") for mover in scene.movers))


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--videos", type=int, default=20)
    count = parser.parse_args().videos
    torch.set_num_threads(1)
    settings, memory = Settings(device="cpu", precision="float32"), ResidentMemory(os.getpid())
    tracker = TrackPipeline.load(f"local-dir:{DETECTOR_FOLDER}", torch.device("cpu"), torch.float32, settings)
    print(describe(settings).line, flush=True)
    scenes = random_scenes(21, count)
    sets = {
        "three that cross, 300 frames": [CROSSING],
        f"{count} videos, different things": scenes,
        f"{count} videos, things alike": [alike(scene) for scene in scenes],
    }
    print("| videos | association | IDF1 | HOTA | tracks | keyframes |\n|---|---|---|---|---|---|")
    for name, of_set in sets.items():
        found = [windows_of(tracker, scene.video) for scene in of_set]
        for way, weights in WAYS.items():
            print(f"| {name} | {way} | {figures(of_set, found, weights)} |", flush=True)
    pictures = [CROSSING.picture(frame).draw() for frame in range(1, CROSSING.frames + 1)]
    print("| frames | seconds | MB more at most |\n|---|---|---|")
    for times in (1, TIMES):
        video = encoded(pictures * times)
        memory.forget_peak()
        before_mb, start = memory.now_mb, time.perf_counter()
        windows_of(tracker, video)
        seconds = time.perf_counter() - start
        print(f"| {CROSSING.frames * times} | {seconds:.2f} | {memory.peak_mb - before_mb:.0f} |", flush=True)


if __name__ == "__main__":
    main()
