"""What is asked about a counted scene and what the right answer is: captions in many forms, and questions.

    Describe the picture.                                   two red circles and one blue square
    Use the form "count / colour".                          2 / red, 1 / blue
    Answer the question.       What colour is the square?   blue

The demo's captioner is trained on them, mostly on captions and questions. The other forms are to teach it to
write what it sees in any order.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lorabel.demo.counted_scenes import MOST_OF_A_KIND, Kind
from lorabel.demo.scenes import SCENE_COLOURS, SCENE_SHAPES, UNSEEN_PAIRS

NUMBERS = ("zero", "one", "two", "three", "four")
DESCRIBE = (
    "Describe the picture.",
    "What is in the picture?",
    "Write the caption of the picture.",
    "Write a caption.",
    "Caption the picture",
    "Say what you see.",
    "describe it",
)
"""Instructions for a plain caption. No instruction that nobody has thought of here is one of them."""
DESCRIBE_EACH = ("Describe the pictures.", "Describe each picture.", "What is in the pictures?")
SENTENCES = ("Write a sentence.", "Describe the picture in a sentence.", "Say it in a whole sentence.")
LISTS = ("List the things.", "Make a list of what is there.", "List what you see.")
SHAPES_ONLY = ("Name the shapes.", "Which shapes are there?")
COLOURS_ONLY = ("Name the colours.", "Which colours are there?")
ANSWER = (
    "Answer the question.",
    "Answer.",
    "Answer the question about the picture.",
    "Answer in one word.",
    "Write the answer of the picture.",
)
FORM = ('Use the form "{}".', 'Write it as "{}".', "Form: {}")
FIELDS: dict[str, Callable[[Kind], str]] = {
    "number": lambda kind: NUMBERS[kind.count],
    "count": lambda kind: str(kind.count),
    "colour": lambda kind: kind.colour,
    "shape": lambda kind: kind.shape,
    "shapes": lambda kind: noun(kind),
}
JOINTS = (" ", "-", " / ", "/", ", ", ": ", "; ", " x ", " | ", "_", "=", " = ", ". ", " (", "+", " of ")
BETWEEN_KINDS = (" and ", ", ", "; ", " + ", " & ", " | ", ". ")
ENDS = ("", "", "", ".", "!", ")", ";")


@dataclass(frozen=True, slots=True)
class Exchange:
    """An instruction, what the task says beside the picture ("" for nothing), and the right answer."""

    instruction: str
    text: str
    answer: str


def noun(kind: Kind) -> str:
    """The shape in the singular or the plural."""
    plural = "crosses" if kind.shape == "cross" else f"{kind.shape}s"
    return kind.shape if kind.count == 1 else plural


def caption(kinds: Sequence[Kind]) -> str:
    """The plain caption: `two red circles and one blue square`."""
    return " and ".join(f"{NUMBERS[kind.count]} {kind.colour} {noun(kind)}" for kind in kinds)


def of_several(all_kinds: Sequence[Sequence[Kind]], rng: random.Random) -> Exchange:
    """What to say about several scenes: the caption of each, in order."""
    return Exchange(rng.choice(DESCRIBE_EACH), "", "; ".join(map(caption, all_kinds)))


def random_exchange(kinds: Sequence[Kind], rng: random.Random) -> Exchange:
    """Something to say about a scene."""
    draw = rng.random()
    if draw < 0.45:
        return Exchange(rng.choice(DESCRIBE), "", caption(kinds))
    if draw < 0.58:
        return _in_other_words(kinds, rng)
    if draw < 0.6:
        return random_form(kinds, rng)
    question, answer = random_question(kinds, rng)
    return Exchange(rng.choice(ANSWER), _recase(question, rng), answer)


def _in_other_words(kinds: Sequence[Kind], rng: random.Random) -> Exchange:
    draw = rng.randrange(4)
    if draw == 0:
        verb = "is" if kinds[0].count == 1 else "are"
        return Exchange(rng.choice(SENTENCES), "", f"There {verb} {caption(kinds)}.")
    if draw == 1:
        items = (f"{kind.count} x {kind.colour} {kind.shape}" for kind in kinds)
        return Exchange(rng.choice(LISTS), "", ", ".join(items))
    if draw == 2:
        shapes = dict.fromkeys(kind.shape for kind in kinds)
        return Exchange(rng.choice(SHAPES_ONLY), "", ", ".join(shapes))
    return Exchange(rng.choice(COLOURS_ONLY), "", ", ".join(dict.fromkeys(kind.colour for kind in kinds)))


def random_form(kinds: Sequence[Kind], rng: random.Random) -> Exchange:
    """A caption whose form the instruction shows."""
    names = rng.sample(sorted(FIELDS), rng.choice((1, 2, 2, 3, 3, 3)))
    joints, end, between = [rng.choice(JOINTS) for _ in names[1:]], rng.choice(ENDS), rng.choice(BETWEEN_KINDS)
    recase = rng.choice((str, str, str.capitalize, str.upper))

    def written(words: Sequence[str]) -> str:
        text = words[0] + "".join(joint + word for joint, word in zip(joints, words[1:], strict=True))
        return str(recase(text + end))

    form, answers = written(names), [written([FIELDS[name](kind) for name in names]) for kind in kinds]
    if rng.random() < 0.5:
        form = f"{form}{between}{form}"
        return Exchange(rng.choice(FORM).format(form), "", between.join(answers))
    return Exchange(rng.choice(FORM).format(form), "", ", ".join(answers))


def random_question(kinds: Sequence[Kind], rng: random.Random) -> tuple[str, str]:
    """A question about a scene, and its answer of a word."""
    draw = rng.random()
    if draw < 0.5:
        return _how_many(kinds, rng)
    asked = rng.choice(kinds)
    if draw < 0.65 and sum(kind.shape == asked.shape for kind in kinds) == 1:
        verb = "is" if asked.count == 1 else "are"
        return rng.choice(
            (f"what colour {verb} the {noun(asked)}?", f"which colour has the {asked.shape}?")
        ), asked.colour
    if draw < 0.8 and sum(kind.colour == asked.colour for kind in kinds) == 1:
        thing = "thing is" if asked.count == 1 else "things are"
        return rng.choice(
            (f"what shape has the {asked.colour} thing?", f"which {thing} {asked.colour}?")
        ), asked.shape
    colour, shape = _asked_pair(kinds, rng)
    is_there = any((kind.colour, kind.shape) == (colour, shape) for kind in kinds)
    return f"is there a {colour} {shape}?", "yes" if is_there else "no"


def _how_many(kinds: Sequence[Kind], rng: random.Random) -> tuple[str, str]:
    colour, shape = _asked_pair(kinds, rng)
    plural = noun(Kind(MOST_OF_A_KIND, colour, shape))
    what, chosen = rng.choice(
        (
            (f"{colour} {plural}", [k for k in kinds if (k.colour, k.shape) == (colour, shape)]),
            (plural, [kind for kind in kinds if kind.shape == shape]),
            (f"{colour} things", [kind for kind in kinds if kind.colour == colour]),
            ("things", list(kinds)),
        )
    )
    question = rng.choice(("how many {}?", "how many {} are there?", "count the {}"))
    return question.format(what), NUMBERS[sum(kind.count for kind in chosen)]


def _asked_pair(kinds: Sequence[Kind], rng: random.Random) -> tuple[str, str]:
    """A colour and a shape, which are in the picture more often than not, though perhaps not of one thing.

    A pair of `UNSEEN_PAIRS` is asked for only where it is in the picture, or the model would learn that it never
    is.
    """
    while True:
        colour, shape = rng.choice(kinds).colour, rng.choice(kinds).shape
        if rng.random() < 0.15:
            colour = rng.choice(tuple(SCENE_COLOURS))
        if rng.random() < 0.15:
            shape = rng.choice(SCENE_SHAPES)
        if (colour, shape) not in UNSEEN_PAIRS or (colour, shape) in ((kind.colour, kind.shape) for kind in kinds):
            return colour, shape


def _recase(text: str, rng: random.Random) -> str:
    text = text if rng.random() < 0.5 else text.capitalize()
    return text if rng.random() < 0.7 else text.rstrip("?")
