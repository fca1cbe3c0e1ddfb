"""Tests of pictures as the dual encoder reads them, against open_clip's own pipeline with Pillow.

The features are those of the demo's encoder, which is trained, so that small differences count.
"""

import io
import itertools
import resource
from collections.abc import Callable
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from open_clip.transform import MaybeConvertMode
from PIL import Image, ImageOps
from skimage import data
from torchvision.transforms import Compose, Pad
from torchvision.transforms.functional import pil_to_tensor

from lorabel.contracts import Modality
from lorabel.demo import MODEL_FOLDER
from lorabel.families.dual_encoder import DualEncoder
from lorabel.families.encoders.picture_resizing import MOST_PX, resized
from lorabel.media.image import decode_image
from lorabel.settings import Settings

pytestmark = pytest.mark.slow

NAMES = ("chelsea", "rocket", "coffee", "astronaut", "cat", "retina", "hubble_deep_field")
PHOTOS = [Image.fromarray(getattr(data, name)()[..., :3]) for name in NAMES]
CLIP = open_clip.image_transform((224, 224), is_train=False)
MODES: dict[str, dict[str, Any]] = {
    "CLIP": {},
    "SigLIP": {"resize_mode": "squash"},
    "longest": {"resize_mode": "longest"},
    "bilinear": {"interpolation": "bilinear"},
}


def resizing(transform: Compose) -> list[Any]:
    """The steps that resize and crop. MaybeConvertMode has nothing to do here, and the last two make numbers."""
    return [step for step in transform.transforms[:-2] if not isinstance(step, MaybeConvertMode)]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [(640, 480), (333, 501), (224, 224), (100, 61), (300, 20), (1, 1)])
def test_values_differ_by_one_at_most_from_open_clips_transform(mode: str, size: tuple[int, int]) -> None:
    """Of a few values by more, since torchvision and Pillow round their weights differently."""
    steps = resizing(open_clip.image_transform((224, 224), is_train=False, **MODES[mode]))
    for photo in PHOTOS[:3]:
        picture = photo.resize(size)
        pixels = resized(np.array(picture), steps)
        assert pixels.dtype == torch.uint8
        difference = (pixels.int() - pil_to_tensor(Compose(steps)(picture)).int()).abs()
        assert int(difference.max()) <= 4
        assert float((difference > 1).float().mean()) < 1e-3
        assert torch.equal(pixels, resized(picture, steps))


def test_pictures_that_must_not_be_copied_are_resized_by_pillow() -> None:
    steps = resizing(CLIP)
    picture = PHOTOS[0].resize((1600, MOST_PX // 1600 + 1))
    difference = resized(picture, steps).int() - resized(np.array(picture), steps).int()
    assert int(difference.abs().max()) <= 1


@pytest.mark.parametrize("size", [(9, 1200), (1201, 8), (700, 43)])
def test_of_a_very_long_picture_the_middle_is_resized(size: tuple[int, int]) -> None:
    steps = resizing(CLIP)
    picture = PHOTOS[1].resize(size)
    expected = pil_to_tensor(Compose(steps)(picture)).int()
    for pixels in (resized(np.array(picture), steps), resized(picture, steps)):
        assert float((pixels.int() - expected).abs().float().mean()) < 1


@pytest.mark.parametrize("size", [(2, 60_000), (60_000, 3)])
def test_a_very_long_picture_takes_little_memory(size: tuple[int, int]) -> None:
    """4.5 GB for the picture as a whole."""
    picture = Image.new("RGB", size, "red")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for each in (np.array(picture), picture):
        pixels = resized(each, resizing(CLIP))
        assert torch.equal(pixels, torch.tensor([255, 0, 0], dtype=torch.uint8)[:, None, None].expand(3, 224, 224))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000, "kilobytes"


def test_a_step_that_is_not_known_is_left_to_pillow() -> None:
    pixels = resized(np.array(PHOTOS[0]), [Pad(3)])
    assert pixels.shape == (3, PHOTOS[0].height + 6, PHOTOS[0].width + 6)


def saved(picture: Image.Image, file_format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, file_format, **options)
    return file.getvalue()


def on_its_side(picture: Image.Image) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved(picture, "JPEG", exif=exif)


FILES: dict[str, Callable[[Image.Image], bytes]] = {
    "JPEG": lambda picture: saved(picture, "JPEG", quality=90),
    "progressive JPEG": lambda picture: saved(picture, "JPEG", progressive=True),
    "JPEG on its side": on_its_side,
    "CMYK": lambda picture: saved(picture.convert("CMYK"), "JPEG"),
    "gray JPEG": lambda picture: saved(picture.convert("L"), "JPEG"),
    "PNG": lambda picture: saved(picture, "PNG"),
    "palette": lambda picture: saved(picture.quantize(64), "PNG"),
    "16 bits": lambda picture: saved(Image.fromarray(np.asarray(picture.convert("L")).astype("u2") * 257), "PNG"),
    "WebP": lambda picture: saved(picture, "WEBP"),
}


@pytest.fixture(scope="module")
def family() -> DualEncoder:
    return DualEncoder.load(f"local-dir:{MODEL_FOLDER}", torch.device("cpu"), torch.float32, Settings())


@pytest.mark.parametrize(
    ("name", "times"),
    [
        *itertools.product(FILES, (0.4, 1.7, 3.7)),
        # Decoded whole, at a half and at a quarter.
        *itertools.product(["JPEG"], (4.1, 8.1, 16.1)),
    ],
)
def test_the_features_of_a_file_are_those_of_open_clips_pipeline(
    family: DualEncoder, name: str, times: float
) -> None:
    """Tolerance: a cosine of 0.999. `times`: the picture's shorter side, in sides of the model's input."""
    for photo in PHOTOS:
        size = [round(times * 64 * side / min(photo.size)) for side in photo.size]
        file = FILES[name](photo.resize((size[0], size[1]), Image.Resampling.LANCZOS))
        whole = ImageOps.exif_transpose(Image.open(io.BytesIO(file)))
        # Of these open_clip would make white, or resize the numbers of colours.
        picture = decode_image(file, 100) if name in ("16 bits", "palette") else whole
        with torch.inference_mode():
            expected = family.encode(Modality.IMAGE, [family.transform(picture)])
            features = family.encode(Modality.IMAGE, [family.read(Modality.IMAGE, file)])
        assert float(torch.nn.functional.cosine_similarity(features, expected)) >= 0.999
