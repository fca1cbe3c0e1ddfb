"""Captions of drawn pictures, in the many ways in which people write labels and prompts.

The demo model is trained on them. Samples: `red`, `Red Circle`, `a photo of a striped star.`,
`small_blue_heart`, `the outlined arrow`.
"""

import random
from collections.abc import Sequence

from lorabel.demo.pictures import COLOURS, FILLS, SHAPES, SIZES, Picture

ATTRIBUTES = ("size", "fill", "colour", "shape")
"""In the order of English adjectives before a noun."""

WORDS: dict[str, tuple[str, ...]] = {
    "size": tuple(SIZES),
    "fill": FILLS,
    "colour": tuple(COLOURS),
    "shape": tuple(SHAPES),
}

PLAIN = "{}"
TEMPLATES = (
    "a {}",
    "the {}",
    "a picture of a {}",
    "a photo of a {}",
    "a photo of a {}.",
    "a photo of the {}.",
    "an image of a {}",
    "a drawing of a {}",
    "this is a {}",
    "there is a {} in the picture",
    "{}s",
    "a {} on a plain ground",
)
NOUNS = ("", " shape", " object", " thing", " one")
"""What may follow words that name no shape, as in `red object`."""


def write(words: dict[str, str], rng: random.Random) -> str:
    """Write one caption.

    Args:
        words: some of a picture's attributes, for example `{"fill": "striped", "shape": "star"}`.
    """
    ordered_words = [words[name] for name in ATTRIBUTES if name in words]
    joiner = " " if rng.random() < 0.85 else rng.choice(("_", "-", ", "))
    if rng.random() < 0.15:
        rng.shuffle(ordered_words)
    phrase = joiner.join(ordered_words)
    if "shape" not in words:
        phrase += rng.choice(NOUNS)
    template = PLAIN if rng.random() < 0.4 else rng.choice(TEMPLATES)
    return _recase(template.format(phrase), rng)


def describe(picture: Picture, names: Sequence[str]) -> dict[str, str]:
    """The words for the attributes `names` of a picture, by attribute."""
    return {name: getattr(picture, name) for name in names}


def unknown_words(count: int, rng: random.Random) -> list[tuple[str, str]]:
    """Labels that have no meaning for the model, each written in two ways.

    The model is trained to tell them apart, so that the text features of any two labels differ from the start.

    Returns:
        `count` pairs of texts; both texts of a pair are the same label.
    """
    stem = _random_word(rng)
    labels: set[str] = set()
    while len(labels) < count:
        if len(labels) < count // 2:
            labels.add(f"{stem} {rng.choice('ABCDEFGHIJ0123456789')}{rng.choice(('', '', rng.choice('123')))}")
        else:
            labels.add(" ".join(_random_word(rng) for _ in range(rng.choice((1, 1, 2)))))
    return [(word, _recase(rng.choice((PLAIN, *TEMPLATES)).format(word), rng)) for word in sorted(labels)]


def _random_word(rng: random.Random) -> str:
    if rng.random() < 0.2:
        first = rng.choice((0xC0, 0x391, 0x410, 0x5D0, 0x627, 0x905, 0x3042, 0x4E00, 0xAC00, 0x1F600))
        return "".join(chr(first + rng.randrange(24)) for _ in range(rng.randint(1, 5)))
    if rng.random() < 0.3:
        return rng.choice(("grade", "class", "type", "group", "label", "kind", "level", "category"))
    syllables = (
        "".join((rng.choice("bcdfghjklmnprstvwz"), rng.choice("aeiou"))) for _ in range(rng.randint(1, 4))
    )
    return "".join(syllables) + rng.choice(("", "n", "s", "r", "t"))


def _recase(text: str, rng: random.Random) -> str:
    draw = rng.random()
    if draw < 0.6:
        return text
    if draw < 0.8:
        return text[:1].upper() + text[1:]
    return text.title() if draw < 0.93 else text.upper()
