"""Pictures of one colour, no two of them alike, and what a project calls the colours."""

import io
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from PIL import Image

SHADES = MappingProxyType({"red": (200, 40, 40), "green": (50, 160, 60), "blue": (40, 60, 200)})
COLOUR_WORDS: Mapping[str, str] = MappingProxyType({"red": "Rot!", "green": "Grün!", "blue": "Blau!"})


def plain_picture(colour: str, seed: int) -> bytes:
    """A PNG of 24 x 24 pixels in a shade of the colour, with noise."""
    rng = np.random.default_rng(seed)
    shade = np.array(SHADES[colour]) + rng.integers(-30, 30, 3)
    pixels = (shade + rng.integers(-20, 20, (24, 24, 3))).clip(0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
