"""Changes pictures and texts of tasks at random, as a worse camera, light or typist would."""

import base64
import io
import random
import string
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.curve_courses import data_url

# Side of the grey square that covers a part of the picture, as a share of the picture's side.
COVERED = 0.4
# Standard deviation, of 255.
NOISE = 25.0
# Side of the part that is left, as a share of the picture's side.
CROPPED = 0.75
# Brightness of each channel, at least and at most.
GAINS = (0.6, 1.4)
# Share of the letters with a typo, and of the words that are dropped.
TYPOS, DROPPED = 0.1, 0.25


def occlude(picture: Image.Image, dice: random.Random) -> Image.Image:
    """Cover a square with grey."""
    side = round(COVERED * picture.width)
    changed = picture.copy()
    place = (dice.randint(0, picture.width - side), dice.randint(0, picture.height - side))
    changed.paste((128, 128, 128), (*place, place[0] + side, place[1] + side))
    return changed


def recolour(picture: Image.Image, dice: random.Random) -> Image.Image:
    """Turn all hues by one random angle, then change the brightness of each channel."""
    hue, saturation, value = picture.convert("HSV").split()
    turned = Image.fromarray(np.asarray(hue) + np.uint8(dice.randrange(256)))
    pixels = np.asarray(Image.merge("HSV", (turned, saturation, value)).convert("RGB"), float)
    gains = [dice.uniform(*GAINS) for _ in range(3)]
    return Image.fromarray((pixels * gains).clip(0, 255).astype(np.uint8))


def add_noise(picture: Image.Image, dice: random.Random) -> Image.Image:
    """Add normal noise to every pixel of every channel."""
    pixels = np.asarray(picture, float)
    noise = np.random.default_rng(dice.randrange(2**32)).normal(0, NOISE, pixels.shape)
    return Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8))


def crop(picture: Image.Image, dice: random.Random) -> Image.Image:
    """Keep a part and enlarge it to the size of the picture."""
    side = round(CROPPED * picture.width)
    left, top = dice.randint(0, picture.width - side), dice.randint(0, picture.height - side)
    return picture.resize(picture.size, box=(left, top, left + side, top + side))


def add_typos(text: str, dice: random.Random) -> str:
    """Drop, double or replace letters, or exchange them with the next one."""
    letters = list(text)
    for index, letter in enumerate(text):
        if letter.isalpha() and dice.random() < TYPOS:
            following = letters[index + 1] if index + 1 < len(letters) else ""
            kinds = ["", 2 * letter, dice.choice(string.ascii_lowercase), following + letter]
            kind = dice.randrange(len(kinds))
            letters[index] = kinds[kind]
            if kind == 3 and following:
                letters[index + 1] = ""
    return "".join(letters)


def drop_words(text: str, dice: random.Random) -> str:
    """Leave out words; one is kept at least."""
    words = text.split()
    kept = [word for word in words if dice.random() >= DROPPED]
    return " ".join(kept or [dice.choice(words)])


PICTURE_CHANGES: Mapping[str, Callable[[Image.Image, random.Random], Image.Image]] = MappingProxyType(
    {"occlusion": occlude, "colour": recolour, "noise": add_noise, "crop": crop}
)
TEXT_CHANGES: Mapping[str, Callable[[str, random.Random], str]] = MappingProxyType(
    {"typos": add_typos, "dropped words": drop_words}
)


def changes_of(data: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the changes that a task's data can have."""
    return tuple(PICTURE_CHANGES if "image" in data else TEXT_CHANGES)


def change(data: Mapping[str, Any], name: str, dice: random.Random) -> dict[str, Any]:
    """Return the data of a task with its picture (a data URL under `image`), or its `text`, changed."""
    if name in TEXT_CHANGES:
        return {**data, "text": TEXT_CHANGES[name](data["text"], dice)}
    file = io.BytesIO(base64.b64decode(data["image"].partition(",")[2]))
    return {**data, "image": data_url(PICTURE_CHANGES[name](Image.open(file).convert("RGB"), dice))}
