"""Videos in an open_clip model: against their frames as pictures, and the demo model on videos that are drawn."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from PIL import Image

from lorabel.contracts import Content, LabelsInput, MediaRef, Modality
from lorabel.database.adapter_folders import AdapterFolders
from lorabel.demo import MODEL_FOLDER
from lorabel.demo.pictures import Picture
from lorabel.families.base import NoBatchAdapters
from lorabel.families.cache import DECODED, FEATURES, TEXTS, FeatureCache
from lorabel.families.dual_encoder import DualEncoder
from lorabel.families.encoders.prepared_input import PreparedInput
from lorabel.media.video import decode_video
from lorabel.settings import Settings
from model_server.adapters import AdapterBank
from tests.model_server.test_adapters import save_random_adapter
from tests.video_files import brightening, encoded

COLOURS = ("red", "green", "blue")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    return DualEncoder.tiny(tmp_path_factory.mktemp("base"))


def load(source: str, **settings: object) -> DualEncoder:
    return DualEncoder.load(source, torch.device("cpu"), torch.float32, Settings.model_validate(settings))


def asked(labels: tuple[str, ...] = COLOURS) -> LabelsInput:
    video = Content(modality=Modality.VIDEO, media=MediaRef(url="x"))
    return LabelsInput(contents=(video,), labels=tuple((label,) for label in labels))


def prepare(family: DualEncoder, file: bytes) -> PreparedInput:
    return family.prepare(asked(), lambda _: file)


def two_colours(first: str, second: str) -> bytes:
    return encoded([Image.new("RGB", (64, 64), first)] * 8 + [Image.new("RGB", (64, 64), second)] * 8)


def picture_features(family: DualEncoder, file: bytes, frames: int) -> torch.Tensor:
    """(frames, dim) of the frames, each read as a picture file."""
    pictures = []
    for frame in decode_video(file, frames, 0.0, 100):
        png = io.BytesIO()
        frame.save(png, "PNG")
        pictures.append(family.read(Modality.IMAGE, png.getvalue()))
    with torch.inference_mode():
        return family.encode(Modality.IMAGE, pictures)


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_a_videos_features_are_pooled_ones_of_its_frames_as_pictures(source: str, pooling: str) -> None:
    family = load(source, video_frames=5, video_pooling=pooling)
    files = [encoded(brightening(40)), two_colours("red", "blue")]
    data = [family.read(Modality.VIDEO, file) for file in files]
    assert [(frames.dtype, frames.shape) for frames in data] == [(torch.uint8, (5, 3, 32, 32))] * 2
    with torch.inference_mode():
        found = family.encode(Modality.VIDEO, data)
    for file, one in zip(files, found, strict=True):
        frames = picture_features(family, file, 5)
        pooled = frames.mean(0) if pooling == "mean" else frames.amax(0)
        torch.testing.assert_close(one, torch.nn.functional.normalize(pooled, dim=0), rtol=1e-4, atol=1e-5)


def test_frames_of_one_video_share_its_adapter_in_a_mixed_batch(source: str, tmp_path: Path) -> None:
    adapter_folders = AdapterFolders(tmp_path)
    one, two = (save_random_adapter(load(source), adapter_folders, version, 4) for version in ("p1.v1", "p2.v1"))
    family = load(source, video_frames=3)
    bank, cache = AdapterBank(family, adapter_folders, 10**9), FeatureCache({FEATURES: 10**6})
    files = [two_colours("red", "blue"), two_colours("green", "white"), two_colours("black", "red")]
    prepared_inputs = [prepare(family, file) for file in files]
    family.predict(prepared_inputs, [one, None, two], bank, cache)
    for prepared, adapter in zip(prepared_inputs, (one, None, two), strict=True):
        alone = load(source)
        if adapter is not None:
            PeftModel.from_pretrained(alone.module, adapter_folders.path(adapter))
        item = prepared.contents[0]
        with torch.inference_mode():
            expected = alone.encode(Modality.VIDEO, [item.data])[0]
        mixed = cache.get(FEATURES, (Modality.VIDEO, item.digest, adapter))
        torch.testing.assert_close(mixed, expected, rtol=1e-3, atol=1e-4)


def test_a_video_that_was_seen_before_is_answered_from_memory(source: str) -> None:
    family, cache = load(source), FeatureCache({FEATURES: 10**6, DECODED: 10**7, TEXTS: 10**6})
    prepared = prepare(family, two_colours("red", "blue"))
    (output,) = family.predict([prepared], [None], NoBatchAdapters(), cache)
    again = family.recall(asked(), lambda _: prepared.contents[0].digest, None, NoBatchAdapters(), cache)
    assert again is not None
    assert family.answer(again, None, NoBatchAdapters(), cache) == output


def test_all_frames_are_jittered_alike(source: str) -> None:
    family = load(source)
    frames = family.read(Modality.VIDEO, encoded([Image.new("RGB", (64, 64), "red")] * 8))
    changed = family.jitter(Modality.VIDEO, frames, torch.Generator().manual_seed(1))
    assert changed.shape == frames.shape
    torch.testing.assert_close(changed, changed[:1].expand_as(changed))


def test_the_demo_model_tells_the_colours_of_shapes_that_move() -> None:
    family = load(f"local-dir:{MODEL_FOLDER}")
    prepared_inputs = []
    for seed in range(12):
        still = np.asarray(Picture(COLOURS[seed % 3], "star", seed=seed).draw())
        moving = [np.roll(still, 4 * step, axis=1) for step in range(16)]
        prepared_inputs.append(prepare(family, encoded(moving)))
    outputs = family.predict(prepared_inputs, [None] * len(prepared_inputs), NoBatchAdapters(), FeatureCache({}))
    assert [int(np.argmax(output.probabilities)) for output in outputs] == [seed % 3 for seed in range(12)]
