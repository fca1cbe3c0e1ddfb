"""The demo's tracker follows boxes through drawn videos that it was not trained on."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from transformers import Sam2Model, Sam2VideoModel

from lorabel.contracts import Content, MediaRef, Modality
from lorabel.demo import SEGMENTER_FOLDER, TRACKER_FOLDER
from lorabel.demo.likeness_weights import compare_by_likeness
from lorabel.demo.moving_clips import FEWEST_THINGS, MOST_THINGS, moving_clips
from lorabel.demo.train_segmenter import normalised
from lorabel.demo.train_tracker import batch_of, box_of, encoded, follow, new_model
from lorabel.evaluation.track_metrics import track_metrics
from lorabel.families.base import NO_BATCH_ADAPTERS
from lorabel.families.cache import FeatureCache
from lorabel.families.tracker import Tracker
from lorabel.families.tracking.video_memory import VideoMemory
from lorabel.settings import Settings
from lorabel.track_contracts import FollowedTracksInput, Keyframe, Track, Tracks, TracksTarget
from tests.moving_scenes import MovingScene, random_scenes

CPU = torch.device("cpu")
FRAMES, DRAWN_IN = 40, 17
LARGEST_FILE = 4 * 2**20


@pytest.fixture(scope="module")
def tracker() -> Iterator[Tracker]:
    yield Tracker.load(f"local-dir:{TRACKER_FOLDER}", CPU, torch.float32, Settings())


def scenes_of(things: int, count: int) -> list[MovingScene]:
    """Videos of so many things, all of which are seen when they are drawn."""
    scenes = [replace(scene, movers=scene.movers[:things]) for scene in random_scenes(77, 3 * count, FRAMES)]
    return [scene for scene in scenes if all(mover.corners(DRAWN_IN) for mover in scene.movers)][:count]


def followed(tracker: Tracker, scene: MovingScene) -> Tracks:
    """What becomes of boxes that are drawn in one frame."""
    begun = tuple(
        Track(label=label, keyframes=(Keyframe(frame=DRAWN_IN, corners=mover.corners(DRAWN_IN) or (0, 0, 0, 0)),))
        for label, mover in enumerate(scene.movers)
    )
    video = Content(modality=Modality.VIDEO, media=MediaRef(url="video"))
    question = FollowedTracksInput(contents=(video,), frames_per_s=scene.frames_per_s, begun=begun)
    prepared = tracker.prepare(question, lambda _: scene.video)
    (output,) = tracker.predict([prepared], [None], NO_BATCH_ADAPTERS, FeatureCache({}))
    assert isinstance(output, Tracks)
    return output


def test_the_file_is_small() -> None:
    assert sum(path.stat().st_size for path in TRACKER_FOLDER.iterdir()) < LARGEST_FILE


@pytest.mark.slow
@pytest.mark.parametrize(("things", "expected"), [(1, 0.9), (2, 0.7)])
def test_things_are_followed_from_a_box_in_one_frame_through_forty(
    tracker: Tracker, things: int, expected: float
) -> None:
    """Two things are mixed up now and then; see docs/decisions/0057."""
    scenes = scenes_of(things, 5)
    assert len(scenes) == 5
    labels = [f"thing {number}" for number in range(things)]
    targets = []
    for scene in scenes:
        names = [mover.name for mover in scene.movers]
        targets.append(TracksTarget(scene.tracks(names), FRAMES))
    outputs = [followed(tracker, scene).tracks for scene in scenes]
    assert track_metrics(targets, outputs, labels).values["idf1"] >= expected


@pytest.mark.slow
def test_a_new_model_draws_the_masks_of_the_segmenter() -> None:
    clip = next(moving_clips(5, 64, 1))
    box = torch.tensor(box_of(clip.masks[0, 0]), dtype=torch.float32)[None, None]
    model, segmenter = new_model().eval(), Sam2Model.from_pretrained(SEGMENTER_FOLDER, dtype=torch.float32).eval()
    asked = {"pixel_values": normalised(clip.pixels), "input_boxes": box, "multimask_output": False}
    with torch.inference_mode():
        masks, expected = (
            model._single_frame_forward(**asked).pred_masks[0, 0],
            segmenter(**asked).pred_masks[0, 0, 0],
        )
    torch.testing.assert_close(masks, expected, atol=1e-3, rtol=1e-4)


@pytest.mark.slow
def test_a_place_of_a_new_model_looks_at_the_place_of_a_memory_that_looks_like_it() -> None:
    """Places of the plain ground look alike, so not all do."""
    model = new_model().eval()
    features = encoded(model, islice(moving_clips(8, 64, 4), 8)).features[-1].float()
    compare_by_likeness(model, features.flatten(0, 2))
    clip, (layer,) = features[0], model.memory_attention.layers
    frame, mask = clip[:1].transpose(1, 2).reshape(1, -1, 8, 8), torch.full((1, 1, 128, 128), -10.0)
    with torch.inference_mode():
        memory = model.memory_encoder(frame, mask)[0].flatten(2)[0].T
        queries = layer.cross_attn_image.q_proj(layer.layer_norm2(clip[0]))
        likeness = queries @ layer.cross_attn_image.k_proj(memory).T
    assert (likeness.argmax(dim=1) == torch.arange(64)).float().mean() > 0.6


@pytest.mark.slow
def test_clips_in_one_session_are_followed_as_each_alone_in_the_family() -> None:
    """What is trained is what is used, but for features in float16, where logits are up to 40."""
    model: Sam2VideoModel = Sam2VideoModel.from_pretrained(TRACKER_FOLDER, dtype=torch.float32).eval()
    clips = list(islice(moving_clips(6, 64, 5), 3))
    batch = batch_of(encoded(model, clips), 3, 5, np.random.default_rng(0))
    with torch.inference_mode():
        logits, scores = follow(model, batch)
    for number in range(3):
        found = None
        for clip in clips:
            for thing in clip.masks:
                for order in (1, -1):
                    if np.array_equal(thing[::order], batch.masks[:, number].numpy() > 0):
                        found = clip.pixels[::order]
        assert found is not None
        corners = tuple(((batch.boxes[number] + 0.5) / 64).tolist())
        memory = VideoMemory(model, [corners], 5, False)  # type: ignore[list-item]
        for frame, pixels in enumerate(normalised(found.copy())):
            (seen,) = memory.add(pixels)
            assert seen.score == pytest.approx(float(scores[frame, number]), abs=1e-2)
            torch.testing.assert_close(seen.logits, logits[frame, number], atol=0.2, rtol=0.02)


@pytest.mark.slow
def test_clips_have_one_to_four_things_whose_masks_are_what_is_seen_and_are_the_same_for_a_seed() -> None:
    clips, again = (list(islice(moving_clips(7, 32, 3), 20)) for _ in range(2))
    assert {len(clip.masks) for clip in clips} == set(range(FEWEST_THINGS, MOST_THINGS + 1))
    for clip, other in zip(clips, again, strict=True):
        assert clip.masks.sum(axis=0).max() <= 1, "of things behind each other, the front one is seen"
        assert np.array_equal(clip.pixels, other.pixels)
