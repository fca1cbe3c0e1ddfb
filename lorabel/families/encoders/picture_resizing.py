"""Resizes and crops a picture to a model's input as open_clip's transform does.

torchvision resizes uint8 tensors with a vectorised kernel in a fraction of Pillow's time. Its antialiased filters
are Pillow's: hardly a value differs by more than 1 of 255 (a test compares them).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import CenterCrop, Compose, Resize
from torchvision.transforms.functional import pil_to_tensor
from torchvision.transforms.v2 import functional

from lorabel.media.plain_jpeg import Pixels

# Steps that are done here.
RESIZING = (Resize, CenterCrop)
# Of pictures that are longer, in widths, and of which only the middle is used, the rest is cut off before they are
# resized: as a whole, one of 2 x 60,000 pixels, a file of a few kilobytes, takes 4.5 GB.
LONGEST = 16
# Larger pictures are not copied into a tensor: Pillow resizes them.
MOST_PX = 2_000_000


def resized(image: Pixels | Image.Image, steps: Sequence[Any]) -> Tensor:
    """Apply the steps of a transform that resize and crop.

    Args:
        image: RGB; an array is (height, width, 3) uint8.
        steps: of open_clip's transform, for pictures of Pillow; if one is not in RESIZING, Pillow does all.

    Returns:
        (3, height, width) uint8, a view of an array of (height, width, 3).
    """
    if is_resized_here(steps):
        image = _middle(image, steps)
        if isinstance(image, Image.Image) and image.width * image.height <= MOST_PX:
            image = np.array(image)
        if isinstance(image, np.ndarray):
            return _resized(torch.from_numpy(image).permute(2, 0, 1), steps)
    picture = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    pixels: Tensor = pil_to_tensor(Compose(list(steps))(picture))
    return pixels


def is_resized_here(steps: Sequence[Any]) -> bool:
    """Whether `resized` needs nothing but torchvision for these steps."""
    return all(isinstance(step, RESIZING) for step in steps)


def _middle(image: Pixels | Image.Image, steps: Sequence[Any]) -> Pixels | Image.Image:
    """Cut the ends off a very long picture, equally, if the steps use its middle only."""
    height, width = image.shape[:2] if isinstance(image, np.ndarray) else (image.height, image.width)
    most = LONGEST * min(height, width)
    scales_shorter = any(isinstance(step, Resize) and isinstance(step.size, int) for step in steps)
    is_cropped = any(isinstance(step, CenterCrop) for step in steps)
    if max(height, width) <= most or not (scales_shorter and is_cropped):
        return image
    left, top = max(0, width - most) // 2, max(0, height - most) // 2
    if isinstance(image, np.ndarray):
        return image[top : height - top, left : width - left]
    return image.crop((left, top, width - left, height - top))


def _resized(pixels: Tensor, steps: Sequence[Any]) -> Tensor:
    for step in steps:
        if isinstance(step, Resize):
            size = [step.size] if isinstance(step.size, int) else list(step.size)
            pixels = functional.resize(pixels, size, step.interpolation, step.max_size, antialias=True)
        elif isinstance(step, CenterCrop):
            pixels = functional.center_crop(pixels, list(step.size))
    # A copy, so that what was cut off is not kept in memory. Numpy makes it, since torch would start more threads
    # for each thread that prepares.
    return torch.from_numpy(np.array(pixels.permute(1, 2, 0).numpy(), order="C")).permute(2, 0, 1)
