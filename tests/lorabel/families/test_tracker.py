"""The tracker gives what transformers' own sessions give, which have the whole video in memory."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    EdgeTamVideoConfig,
    EdgeTamVideoModel,
    Sam2ImageProcessor,
    Sam2Model,
    Sam2VideoModel,
    Sam2VideoProcessor,
    Sam2VideoVideoProcessor,
)
from transformers.models.edgetam_video.modeling_edgetam_video import EdgeTamVideoInferenceSession

from lorabel.contracts import Content, MediaRef, Modality
from lorabel.errors import SettingsError, UnreadableError
from lorabel.families.base import NO_BATCH_ADAPTERS
from lorabel.families.cache import FeatureCache
from lorabel.families.segmentation.small_sam2 import save_model, small_config
from lorabel.families.tracker import FollowingSteps, PreparedFollowing, Tracker
from lorabel.families.tracking.video_memory import Seen, VideoMemory
from lorabel.settings import Settings
from lorabel.space_contracts import Corners
from lorabel.track_contracts import FollowedTracksInput, Keyframe, Track, Tracks
from tests.moving_scenes import random_scenes

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
SCENE = random_scenes(5, 1, frames=30)[0]
FRAMES = 30
BOXES: tuple[Corners, ...] = ((0.1, 0.2, 0.5, 0.6), (0.3, 0.3, 0.9, 0.8))


@pytest.fixture(scope="module")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> Tracker:
    """A tiny model with weights so large that memories matter; it sees things in some frames only."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        source = Tracker.tiny(tmp_path_factory.mktemp("tracker"))
    return with_large_weights(source)


@pytest.fixture(scope="module")
def edgetam(tmp_path_factory: pytest.TempPathFactory) -> Tracker:
    """As `tracker`, a tiny EdgeTAM. Its tower is another small one of timm, in place of RepViT."""
    hidden, folder = 128, tmp_path_factory.mktemp("edgetam")
    backbone = {
        "model_type": "timm_wrapper",
        "architecture": "test_convnext",
        "num_classes": 0,
        "model_args": {"in_chans": 3, "features_only": True, "out_indices": [0, 1, 2, 3]},
    }
    memory = {f"memory_{name}_hidden_size": hidden for name in ("attention", "attention_mlp", "encoder")}
    config = EdgeTamVideoConfig(
        vision_config={
            "model_type": "edgetam_vision_model",
            "backbone_config": backbone,
            "backbone_channel_list": [64, 48, 32, 24],
            "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
            "fpn_hidden_size": hidden,
        },
        prompt_encoder_config={"hidden_size": hidden, "image_size": 128},
        mask_decoder_config={"hidden_size": hidden, "mlp_dim": hidden, "iou_head_hidden_dim": hidden},
        image_size=128,
        memory_attention_rope_feat_sizes=[8, 8],
        memory_attention_rope_k_sizes=[2, 2],
        mask_downsampler_embed_dim=hidden,
        memory_fuser_embed_dim=hidden,
        memory_fuser_intermediate_dim=32,
        perceiver_resampler_num_latents=4,
        perceiver_resampler_num_latents_2d=4,
        **memory,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        EdgeTamVideoModel(config).save_pretrained(folder)
    Sam2ImageProcessor(size={"height": 128, "width": 128}).save_pretrained(folder)
    return with_large_weights(f"local-dir:{folder}")


def with_large_weights(source: str) -> Tracker:
    tracker = Tracker.load(
        source, CPU, torch.float32, Settings(tracks_frames_per_s=25, tracks_tolerance_percent=0)
    )
    generator = torch.Generator().manual_seed(0)
    for weight in tracker.module.parameters():
        weight.add_(torch.randn(weight.shape, generator=generator) * 0.15)
    frames = tracker.decoded(prepared(tracker, [begun(1, BOXES[0])]), range(9, FRAMES + 1))
    memory = VideoMemory(tracker.module, BOXES, len(frames), False)
    scores = [seen.score for frame in frames for seen in memory.add(tracker.normalised(frame))]
    bias = dict(tracker.module.named_parameters())["mask_decoder.pred_obj_score_head.proj_out.bias"]
    bias -= torch.tensor(scores).median()
    return tracker


def asked(begun: Sequence[Track]) -> FollowedTracksInput:
    video = Content(modality=Modality.VIDEO, media=MediaRef(url="video"))
    return FollowedTracksInput(contents=(video,), frames_per_s=25, begun=tuple(begun))


def begun(frame: int, corners: Corners, label: int = 0) -> Track:
    return Track(label=label, keyframes=(Keyframe(frame=frame, corners=corners),))


def prepared(tracker: Tracker, tracks: Sequence[Track], video: bytes = SCENE.video) -> PreparedFollowing:
    return tracker.prepare(asked(tracks), lambda _: video)


def followed(tracker: Tracker, tracks: Sequence[Track], video: bytes = SCENE.video) -> Tracks:
    question = prepared(tracker, tracks, video)
    (output,) = tracker.predict([question], [None], NO_BATCH_ADAPTERS, FeatureCache({}))
    assert isinstance(output, Tracks)
    return output


def reference(
    model: Sam2VideoModel | EdgeTamVideoModel,
    frames: Tensor,
    start: int,
    boxes: Sequence[Corners],
    is_backwards: bool,
) -> dict[int, tuple[Tensor, Tensor]]:
    """Masks and scores of each frame by transformers, with all frames in one session."""
    size = {"height": frames.shape[2], "width": frames.shape[3]}
    processor = Sam2VideoProcessor(Sam2ImageProcessor(size=size), Sam2VideoVideoProcessor(size=size))
    processor.target_size = frames.shape[2]
    is_edgetam = isinstance(model, EdgeTamVideoModel)
    session = EdgeTamVideoInferenceSession() if is_edgetam else processor.init_video_session()
    session.dtype = torch.float32
    session.processed_frames = dict(enumerate(frames))
    session.video_height, session.video_width = frames.shape[2:]
    in_pixels = [[[value * frames.shape[2] - 0.5 for value in corners] for corners in boxes]]
    processor.add_inputs_to_inference_session(session, start, list(range(len(boxes))), input_boxes=in_pixels)
    outputs = model.propagate_in_video_iterator(session, start, reverse=is_backwards)
    return {each.frame_idx: (each.pred_masks[:, 0], each.object_score_logits.flatten()) for each in outputs}


@pytest.mark.parametrize("is_backwards", [False, True])
@pytest.mark.parametrize("model", ["tracker", "edgetam"])
def test_frames_that_come_and_go_give_the_masks_of_a_session_with_the_whole_video(
    model: str, is_backwards: bool, request: pytest.FixtureRequest
) -> None:
    tracker = request.getfixturevalue(model)
    frames = torch.stack(
        [
            tracker.normalised(each)
            for each in tracker.decoded(prepared(tracker, [begun(1, BOXES[0])]), range(1, FRAMES + 1))
        ]
    )
    start = FRAMES - 1 if is_backwards else 0
    expected = reference(tracker.module, frames, start, BOXES, is_backwards)
    assert len(expected) == FRAMES
    memory = VideoMemory(tracker.module, BOXES, FRAMES, is_backwards)
    session: Any = memory._session
    held: list[int] = []
    for index in sorted(expected, reverse=is_backwards):
        masks, scores = expected[index]
        for seen, mask, score in zip(memory.add(frames[index]), masks, scores, strict=True):
            torch.testing.assert_close(seen.logits, mask)
            assert seen.score == pytest.approx(float(score), abs=1e-5)
        assert not session.processed_frames
        held.append(sum(map(len, session.output_dict_per_obj[0].values())))
    assert held[-1] == held[20] <= 17, "what older frames have left is dropped"
    last, alone = 0 if is_backwards else FRAMES - 1, VideoMemory(tracker.module, BOXES, FRAMES, is_backwards)
    assert alone.add(frames[last])[0].score != pytest.approx(float(expected[last][1][0]), abs=1e-2), "it remembers"


@pytest.mark.parametrize("model", ["tracker", "edgetam"])
def test_things_that_were_drawn_apart_share_no_place_and_remember_none(
    model: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = request.getfixturevalue(model)
    boxes: tuple[Corners, ...] = ((0.1, 0.2, 0.5, 0.6), (0.5, 0.3, 0.9, 0.8))
    frames = [
        tracker.normalised(each) for each in tracker.decoded(prepared(tracker, [begun(1, BOXES[0])]), range(1, 11))
    ]
    together, forgetful = (VideoMemory(tracker.module, boxes, FRAMES, False) for _ in range(2))
    monkeypatch.setattr(forgetful, "_remember", lambda *_: None)
    alone = [VideoMemory(tracker.module, [box], FRAMES, False) for box in boxes]
    share, share_alone, changes = [], [], []
    for frame in frames:
        views, views_alone = together.add(frame), [memory.add(frame)[0] for memory in alone]
        share.append(has_common_place(views))
        share_alone.append(has_common_place(views_alone))
        pairs = zip(views, forgetful.add(frame), strict=True)
        changes.append(any(not torch.equal(view.logits, other.logits) for view, other in pairs))
    assert any(share_alone[1:]) and not any(share[1:])
    assert any(changes), "what is remembered is changed, too"


def has_common_place(views: Sequence[Seen]) -> bool:
    first, second = (view.logits > 0 for view in views)
    return bool((first & second).any())


def test_tracks_are_the_boxes_of_the_masks_forwards_and_backwards_whatever_the_windows(
    tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracks = [begun(9, BOXES[0]), begun(9, BOXES[1], 1), begun(21, BOXES[1], 2), begun(31, BOXES[0], 3)]
    monkeypatch.setattr("lorabel.families.tracker.MOST_DECODED", 7)
    output = followed(tracker, tracks)
    assert (output.frames, [track.label for track in output.tracks]) == (30, [0, 1, 2]), "frame 31 is not there"
    monkeypatch.setattr("lorabel.families.tracker.MOST_DECODED", 1000)
    assert followed(tracker, tracks) == output
    all_frames = tracker.decoded(prepared(tracker, tracks), range(1, FRAMES + 1))
    frames = torch.stack([tracker.normalised(each) for each in all_frames])
    seen_in: list[set[int]] = []
    for track, (start, boxes, place) in zip(
        output.tracks, [(9, BOXES, 0), (9, BOXES, 1), (21, BOXES[1:], 0)], strict=True
    ):
        masks = {
            index: (logits[place], float(scores[place]))
            for is_backwards in (True, False)
            for index, (logits, scores) in reference(
                tracker.module, frames, start - 1, boxes, is_backwards
            ).items()
        }
        seen = {number for number in range(1, FRAMES + 1) if track.at(number) is not None}
        expected = {index + 1 for index, (mask, score) in masks.items() if score > 0 and (mask > 0).any()} | {
            start
        }
        assert seen == expected
        assert track.at(start) == pytest.approx(boxes[place], abs=0.3)
        seen_in.append(seen)
    assert any(3 < len(seen) < FRAMES - 3 for seen in seen_in)


def test_a_box_is_followed_by_edgetam_through_the_door_of_the_family(edgetam: Tracker) -> None:
    output = followed(edgetam, [begun(9, BOXES[0]), begun(9, BOXES[1], 1)])
    all_frames = edgetam.decoded(prepared(edgetam, [begun(9, BOXES[0])]), range(1, FRAMES + 1))
    frames = torch.stack([edgetam.normalised(each) for each in all_frames])
    for place, track in enumerate(output.tracks):
        expected = {9}
        for is_backwards in (True, False):
            of_frames = reference(edgetam.module, frames, 8, BOXES, is_backwards)
            expected |= {
                index + 1
                for index, (logits, scores) in of_frames.items()
                if scores[place] > 0 and (logits[place] > 0).any()
            }
        assert {number for number in range(1, FRAMES + 1) if track.at(number) is not None} == expected


def test_rows_take_turns_and_a_step_is_one_frame(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    computed: list[int] = []
    add = VideoMemory.add

    def noted(memory: VideoMemory, pixels: Tensor) -> Any:
        computed.append(id(memory))
        return add(memory, pixels)

    monkeypatch.setattr(VideoMemory, "add", noted)
    steps = FollowingSteps(tracker)
    question = prepared(tracker, [begun(1, BOXES[0])])
    for row in range(4):
        assert steps.has_room(question)
        steps.begin(row, question, None)
    assert not steps.has_room(question)
    outputs: list[Any] = []
    while steps.rows:
        before = len(computed)
        outputs += [steps.finish(row) for row in steps.step()]
        assert len(computed) - before <= 1
    assert len(computed) == 4 * FRAMES and outputs == [outputs[0]] * 4
    turns = computed[FRAMES : 2 * FRAMES]
    assert {turns.count(memory) for memory in turns} <= {7, 8}, "each row has its turn"


def test_a_frame_that_fails_can_be_tried_again(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = followed(tracker, [begun(15, BOXES[0])])
    steps, add, calls = FollowingSteps(tracker), VideoMemory.add, [0]

    def failing(memory: VideoMemory, pixels: Tensor) -> Any:
        calls[0] += 1
        if calls[0] in (1, 25):
            raise RuntimeError("out of memory")
        return add(memory, pixels)

    monkeypatch.setattr(VideoMemory, "add", failing)
    steps.begin("row", prepared(tracker, [begun(15, BOXES[0])]), None)
    failures, outputs = 0, list[Any]()
    while steps.rows:
        try:
            outputs += [steps.finish(row) for row in steps.step()]
        except RuntimeError:
            failures += 1
    assert (failures, outputs) == (2, [expected])


def test_a_video_that_cannot_be_decoded_any_more_fails_alone(
    tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, decoded = FollowingSteps(tracker), Tracker.decoded

    def failing(family: Tracker, question: PreparedFollowing, numbers: Sequence[int]) -> list[Tensor]:
        if question.question.begun[0].label == 7 and 20 in numbers:
            raise UnreadableError("too many frames", is_permanent=True)
        return decoded(family, question, numbers)

    monkeypatch.setattr(Tracker, "decoded", failing)
    for label in (7, 0):
        steps.begin(label, prepared(tracker, [begun(1, BOXES[0], label)]), None)
    done: list[Any] = []
    while steps.rows:
        for row in steps.step():
            if row == 7:
                with pytest.raises(UnreadableError, match="too many frames"):
                    steps.finish(row)
            else:
                done.append(steps.finish(row))
    assert len(done) == 1 and done[0].tracks


def test_bytes_that_are_no_video_are_refused_for_good(tracker: Tracker) -> None:
    with pytest.raises(UnreadableError, match="no readable video") as error:
        prepared(tracker, [begun(1, BOXES[0])], b"nothing")
    assert error.value.is_permanent


def test_a_sam_2_for_pictures_is_refused_since_it_remembers_nothing(tmp_path: Path) -> None:
    save_model(Sam2Model(small_config(32, (8, 16, 24, 32), 32)), tmp_path)
    with pytest.raises(SettingsError, match="MODEL_TRACKER"):
        Tracker.load(f"local-dir:{tmp_path}", CPU, torch.float32, Settings())
