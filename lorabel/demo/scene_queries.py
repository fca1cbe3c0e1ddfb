"""What can be said of a thing in a drawn scene, and which things a saying is true of."""

import random
from dataclasses import dataclass

from lorabel.demo.scenes import SCENE_COLOURS, SCENE_SHAPES, UNSEEN_PAIRS, Thing

TEMPLATES = ("{}", "{}", "a {}", "the {}", "a photo of a {}", "a photo of a {}.")


@dataclass(frozen=True, slots=True)
class Query:
    """A description; None says nothing about the attribute."""

    colour: str | None
    shape: str | None
    has_hole: bool | None = None

    @property
    def text(self) -> str:
        """The description in words: `red circle with a hole`, `star`, `green thing`."""
        words = " ".join(part for part in (self.colour, self.shape or "thing") if part)
        return f"{words} with a hole" if self.has_hole else words

    def is_true_of(self, thing: Thing) -> bool:
        """Whether the thing is described by it."""
        return (
            self.colour in (None, thing.colour)
            and self.shape in (None, thing.shape)
            and self.has_hole in (None, thing.has_hole)
        )

    def names_unseen_pair(self) -> bool:
        """Whether it names a pair of colour and shape that is never trained on."""
        return (self.colour, self.shape) in UNSEEN_PAIRS

    def mixes_into_unseen_pair(self, thing: Thing) -> bool:
        """Whether its colour and the thing's shape, or the reverse, are a pair that is never trained on.

        Such a thing is not shown as a wrong answer. Otherwise the model would learn that red things are not
        squares, because it never sees a red square.
        """
        return (thing.colour, self.shape) in UNSEEN_PAIRS or (self.colour, thing.shape) in UNSEEN_PAIRS


def random_query(rng: random.Random, thing: Thing | None = None) -> Query:
    """A query that is true of the thing, or any; never one of an unseen pair."""
    while True:
        colour = thing.colour if thing else rng.choice(tuple(SCENE_COLOURS))
        shape = thing.shape if thing else rng.choice(SCENE_SHAPES)
        has_hole = thing.has_hole if thing else rng.random() < 0.4
        draw = rng.random()
        query = Query(
            colour if draw < 0.75 else None,
            shape if draw < 0.55 or draw >= 0.75 else None,
            True if has_hole and rng.random() < 0.4 else None,
        )
        if not query.names_unseen_pair():
            return query


def write(query: Query, rng: random.Random) -> str:
    """The query's text in one of several templates."""
    return rng.choice(TEMPLATES).format(query.text)
