"""Pictures resized to a square, against OWLv2's image processor of transformers."""

import numpy as np
import pytest
import torch
from transformers import Owlv2ImageProcessor

from lorabel.families.detection.square_resizing import resized_to_square


def picture(height: int, width: int) -> torch.Tensor:
    """Noise on slopes: with sharp edges, and other pixels at each border."""
    generator = np.random.default_rng(height * width)
    slopes = np.linspace(0, 200, width)[None, :, None] + np.linspace(0, 50, height)[:, None, None]
    noise = generator.integers(0, 256, (height, width, 3)) * (generator.random((height, width, 1)) < 0.3)
    return torch.from_numpy((slopes + noise).clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize(
    ("height", "width", "side"),
    [
        pytest.param(96, 96, 96, id="as large as the input"),
        pytest.param(40, 25, 96, id="smaller"),
        pytest.param(95, 97, 96, id="one pixel larger"),
        pytest.param(120, 160, 96, id="landscape"),
        pytest.param(240, 150, 64, id="portrait"),
        pytest.param(300, 300, 50, id="much larger"),
        pytest.param(2, 500, 32, id="a strip"),
        pytest.param(1, 1, 32, id="one pixel"),
    ],
)
def test_pixels_are_those_of_transformers(height: int, width: int, side: int) -> None:
    pixels = picture(height, width)
    processor = Owlv2ImageProcessor(size={"height": side, "width": side})
    expected = processor(pixels.permute(2, 0, 1), do_normalize=False, return_tensors="pt")["pixel_values"][0]
    square = resized_to_square(pixels, side)
    assert square.dtype == torch.uint8 and square.is_contiguous()
    assert (square.float() - expected * 255).abs().max() <= 0.51


def test_what_is_padded_takes_no_memory() -> None:
    """The square around this strip would have 10 GB."""
    strip = torch.full((60_000, 4, 3), 200, dtype=torch.uint8)
    square = resized_to_square(strip, 96)
    assert square.shape == (3, 96, 96)
    assert square.flatten()[0] < 2, "the strip is narrower than a hundredth of a pixel"
