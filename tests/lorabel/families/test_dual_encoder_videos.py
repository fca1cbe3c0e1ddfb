"""Tests of videos in `dual_encoder`: compared with their frames as pictures; and the demo model on drawn ones."""

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
from lorabel.errors import UnreadableError
from lorabel.families.base import NoBatchAdapters
from lorabel.families.cache import DECODED, FEATURES, TEXTS, FeatureCache
from lorabel.families.dual_encoder import DualEncoder
from lorabel.families.encoders.prepared_input import PreparedInput
from lorabel.media.fetching import digest
from lorabel.media.video import decode_video
from lorabel.settings import Settings
from model_server.adapters import AdapterBank
from tests.model_server.test_adapters import save_random_adapter
from tests.video_files import brightening, encoded

pytestmark = pytest.mark.slow

COLOURS = ("red", "green", "blue")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    return DualEncoder.tiny(tmp_path_factory.mktemp("base"))


def load(source: str, **settings: object) -> DualEncoder:
    return DualEncoder.load(source, torch.device("cpu"), torch.float32, Settings.model_validate(settings))


def question_about(modality: Modality) -> LabelsInput:
    content = Content(modality=modality, media=MediaRef(url="x"))
    return LabelsInput(contents=(content,), labels=tuple((colour,) for colour in COLOURS))


QUESTION = question_about(Modality.VIDEO)


def prepare(family: DualEncoder, file: bytes) -> PreparedInput:
    return family.prepare(QUESTION, lambda _: file)


def two_colours(first: str, second: str) -> bytes:
    return encoded([Image.new("RGB", (64, 64), first)] * 8 + [Image.new("RGB", (64, 64), second)] * 8)


def png_file() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(file, "PNG")
    return file.getvalue()


def picture_features(family: DualEncoder, file: bytes, frames: int) -> torch.Tensor:
    """(frames, dim): the features of each frame, read as a picture file."""
    pictures = []
    for frame in decode_video(file, frames, 0.0, 100):
        png = io.BytesIO()
        frame.save(png, "PNG")
        pictures.append(family.read(Modality.IMAGE, png.getvalue()))
    with torch.inference_mode():
        return family.encode(Modality.IMAGE, pictures)


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_the_features_of_a_video_are_those_of_its_frames_as_pictures_pooled(source: str, pooling: str) -> None:
    family = load(source, video_frames=5, video_pooling=pooling)
    files = [encoded(brightening(40)), two_colours("red", "blue")]
    data = [family.read(Modality.VIDEO, file) for file in files]
    assert [(frames.dtype, frames.shape) for frames in data] == [(torch.uint8, (5, 3, 32, 32))] * 2
    with torch.inference_mode():
        video_features = family.encode(Modality.VIDEO, data)
    for file, features in zip(files, video_features, strict=True):
        frames = picture_features(family, file, 5)
        pooled = frames.mean(0) if pooling == "mean" else frames.amax(0)
        expected = torch.nn.functional.normalize(pooled, dim=0)
        torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)


def test_frames_of_one_video_share_its_adapter_in_a_mixed_batch(source: str, tmp_path: Path) -> None:
    adapter_folders = AdapterFolders(tmp_path)
    first, second = (
        save_random_adapter(load(source), adapter_folders, version, 4) for version in ("p1.v1", "p2.v1")
    )
    family = load(source, video_frames=3)
    bank, cache = AdapterBank(family, adapter_folders, 10**9), FeatureCache({FEATURES: 10**6})
    files = [two_colours("red", "blue"), two_colours("green", "white"), two_colours("black", "red")]
    prepared_inputs = [prepare(family, file) for file in files]
    family.predict(prepared_inputs, [first, None, second], bank, cache)
    for prepared, adapter in zip(prepared_inputs, (first, None, second), strict=True):
        alone = load(source)
        if adapter is not None:
            PeftModel.from_pretrained(alone.module, adapter_folders.path(adapter))
        content = prepared.contents[0]
        with torch.inference_mode():
            expected = alone.encode(Modality.VIDEO, [content.data])[0]
        mixed = cache.get(FEATURES, (Modality.VIDEO, content.digest, adapter))
        torch.testing.assert_close(mixed, expected, rtol=1e-3, atol=1e-4)


def test_a_second_question_about_a_video_is_answered_from_the_cache(source: str) -> None:
    family, cache = load(source), FeatureCache({FEATURES: 10**6, DECODED: 10**7, TEXTS: 10**6})
    prepared = prepare(family, two_colours("red", "blue"))
    (output,) = family.predict([prepared], [None], NoBatchAdapters(), cache)
    recalled = family.recall(QUESTION, lambda _: prepared.contents[0].digest, None, NoBatchAdapters(), cache)
    assert recalled is not None
    assert family.answer(recalled, None, NoBatchAdapters(), cache) == output


@pytest.mark.parametrize(
    ("modality", "other"), [(Modality.IMAGE, Modality.VIDEO), (Modality.VIDEO, Modality.IMAGE)]
)
@pytest.mark.parametrize("is_demo_model", [True, False])
def test_a_file_that_was_decoded_as_one_modality_is_not_taken_for_another(
    source: str, modality: Modality, other: Modality, is_demo_model: bool
) -> None:
    """One control tag shows the file as a picture, another as a video. Only the modality that fits is answered."""
    family = load(f"local-dir:{MODEL_FOLDER}" if is_demo_model else source)
    cache = FeatureCache({DECODED: 10**7})
    file = png_file() if modality == Modality.IMAGE else two_colours("red", "blue")

    def answer(asked: Modality) -> object:
        question = question_about(asked)
        recalled = family.recall(question, lambda _: digest(file), None, NoBatchAdapters(), cache)
        prepared = recalled or family.prepare(question, lambda _: file)
        return family.predict([prepared], [None], NoBatchAdapters(), cache)

    first = answer(modality)
    with pytest.raises(UnreadableError, match="no readable"):
        answer(other)
    assert answer(modality) == first


def test_all_frames_of_a_video_are_jittered_equally(source: str) -> None:
    family = load(source)
    frames = family.read(Modality.VIDEO, encoded([Image.new("RGB", (64, 64), "red")] * 8))
    changed = family.jitter(Modality.VIDEO, frames, torch.Generator().manual_seed(1))
    assert changed.shape == frames.shape
    torch.testing.assert_close(changed, changed[:1].expand_as(changed))


def test_the_demo_model_recognises_the_colours_of_moving_shapes() -> None:
    family = load(f"local-dir:{MODEL_FOLDER}")
    prepared_inputs = []
    for seed in range(12):
        still = np.asarray(Picture(COLOURS[seed % 3], "star", seed=seed).draw())
        moving = [np.roll(still, 4 * step, axis=1) for step in range(16)]
        prepared_inputs.append(prepare(family, encoded(moving)))
    outputs = family.predict(prepared_inputs, [None] * len(prepared_inputs), NoBatchAdapters(), FeatureCache({}))
    assert [int(np.argmax(output.probabilities)) for output in outputs] == [seed % 3 for seed in range(12)]
