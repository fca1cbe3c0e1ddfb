"""Writes two data sets of sentences by rule: support tickets by department, machine reports by fault.

The held-out sentences come from other templates than the sentences to learn from, so that learning by heart does
not help. The same seed gives the same sentences.
"""

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

SLOT = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Sentence:
    text: str
    label: str


@dataclass(frozen=True)
class DataSet:
    """Sentences in random order, equally many of each label; no text comes twice."""

    name: str
    labels: tuple[str, ...]
    train: tuple[Sentence, ...]
    held_out: tuple[Sentence, ...]


@dataclass(frozen=True)
class Rules:
    """How a data set is written.

    Args:
        train: label -> templates of the sentences to learn from.
        held_out: label -> templates of the held-out sentences.
        words: slot -> the words for it.
        before: what may stand before a sentence.
        after: what may stand after it.
    """

    name: str
    train: Mapping[str, Sequence[str]]
    held_out: Mapping[str, Sequence[str]]
    words: Mapping[str, Sequence[str]]
    before: Sequence[str]
    after: Sequence[str]


TICKETS = Rules(
    name="tickets",
    train=MappingProxyType(
        {
            "billing": (
                "I was charged twice for the {thing}.",
                "The invoice for my {thing} shows the wrong amount.",
                "Why is there an extra fee of {number} euros on my bill?",
                "My credit card was declined although it is valid.",
                "Please send me a receipt for the {thing} from {when}.",
            ),
            "delivery": (
                "The {thing} has not arrived yet.",
                "My parcel was left at the wrong address {when}.",
                "The tracking page has shown the same place since {when}.",
                "When will the courier bring the {thing}?",
                "The driver did not ring and took the {thing} away again.",
            ),
            "account": (
                "I forgot my password and the reset mail never comes.",
                "Please change the e-mail address of my profile.",
                "I cannot log in since {when}.",
                "How do I delete my user data?",
                "The code for signing in was refused {number} times.",
            ),
            "returns": (
                "I would like to send the {thing} back.",
                "The {thing} is the wrong size, can I exchange it?",
                "I need a return label for the {thing}.",
                "How many days do I have to bring the {thing} back?",
                "I changed my mind about the {thing} that I bought {when}.",
            ),
            "repairs": (
                "The {thing} stopped working {when}.",
                "The screen of my {thing} flickers.",
                "My {thing} makes a strange noise after {number} minutes.",
                "The {thing} does not switch on any more.",
                "The battery of the {thing} lasts {number} minutes only.",
            ),
        }
    ),
    held_out=MappingProxyType(
        {
            "billing": (
                "My bank statement lists two payments instead of one for the {thing}.",
                "You took {number} euros too much from me {when}.",
                "Can I pay for the {thing} in instalments?",
            ),
            "delivery": (
                "I have been waiting for the {thing} for {number} days.",
                "The shipment of the {thing} seems to be lost.",
                "Nobody was at home {when}, where can I pick up the package?",
            ),
            "account": (
                "Somebody else seems to use my login since {when}.",
                "My user name is misspelled, can you correct it?",
                "It says that I am locked out after {number} attempts.",
            ),
            "returns": (
                "The {thing} does not fit, I want another one instead.",
                "Where do I post the {thing} that I do not want to keep?",
                "May I give the {thing} back after {number} days?",
            ),
            "repairs": (
                "A button of the {thing} broke off {when}.",
                "The {thing} gets hot and turns itself off after {number} minutes.",
                "There is a crack in the case of the {thing}, can it be fixed?",
            ),
        }
    ),
    words=MappingProxyType(
        {
            "thing": (
                "camera",
                "kettle",
                "lamp",
                "phone",
                "radio",
                "drill",
                "scooter",
                "printer",
                "headset",
                "watch",
            ),
            "when": ("yesterday", "on Monday", "last week", "this morning", "two days ago", "in March"),
            "number": ("2", "3", "5", "10", "12", "20", "30"),
        }
    ),
    before=("", "Hello! ", "Good morning. ", "Dear team, this is urgent. ", "Second message: ", "Hi there. "),
    after=("", " Thank you.", " Please help.", " Kind regards, Kim", " What can I do?"),
)

REPORTS = Rules(
    name="reports",
    train=MappingProxyType(
        {
            "leak": (
                "Oil drips from the {place}.",
                "There is a puddle under the {place}.",
                "The seal of the {place} is wet again.",
                "We lose {number} litres of coolant a day at the {place}.",
                "Hydraulic fluid sprays out of the {place}.",
            ),
            "noise": (
                "The {place} screeches {when}.",
                "A grinding sound comes from the {place}.",
                "The {place} rattles whenever it starts.",
                "The hum of the {place} got louder {when}.",
                "There is a knocking in the {place} every {number} seconds.",
            ),
            "overheating": (
                "The {place} is too hot to touch.",
                "The temperature alarm of the {place} went off {when}.",
                "The {place} runs {number} degrees above its limit.",
                "It smells burnt around the {place}.",
                "The thermometer of the {place} is in the red.",
            ),
            "jam": (
                "A box is stuck in the {place}.",
                "The {place} is blocked by torn foil.",
                "Parts pile up in front of the {place}.",
                "The feeder of the {place} clogged {number} times {when}.",
                "Nothing gets through the {place} any more.",
            ),
            "power": (
                "The {place} has no electricity.",
                "The fuse of the {place} blew {when}.",
                "The display of the {place} went dark.",
                "The {place} shuts down when the voltage drops.",
                "The cable of the {place} gave me an electric shock.",
            ),
        }
    ),
    held_out=MappingProxyType(
        {
            "leak": (
                "The floor below the {place} is slippery with lubricant.",
                "Somebody must refill the tank of the {place} every {number} hours, it runs out.",
                "Drops fall from a loose fitting on the {place}.",
            ),
            "noise": (
                "The {place} squeals like a pig {when}.",
                "One has to shout next to the {place}, so loud it is.",
                "I heard a bang in the {place} and clatter for {number} minutes.",
            ),
            "overheating": (
                "Smoke rises from the {place} {when}.",
                "The housing of the {place} reached {number} degrees.",
                "The fan cannot cool the {place} enough.",
            ),
            "jam": (
                "A carton got wedged in the {place}.",
                "We had to pull crumpled labels out of the {place} {number} times.",
                "The {place} stands still since something is caught in it.",
            ),
            "power": (
                "No lamp is on at the {place}, the plug seems dead.",
                "A short circuit tripped the breaker of the {place} {when}.",
                "The {place} restarts by itself after an outage of {number} seconds.",
            ),
        }
    ),
    words=MappingProxyType(
        {
            "place": (
                "press",
                "north pump",
                "conveyor",
                "mixer",
                "gearbox",
                "packing line",
                "lathe",
                "filler",
                "robot arm",
                "compressor",
            ),
            "when": (
                "again",
                "at night",
                "since noon",
                "after the break",
                "during the early shift",
                "twice today",
            ),
            "number": ("2", "3", "4", "6", "8", "15", "40"),
        }
    ),
    before=("", "Line 3: ", "Note from the night shift: ", "Attention. ", "For maintenance: ", "Hall B. "),
    after=("", " Please check.", " Seen by two people.", " Not urgent.", " Production stopped."),
)


def tickets(seed: int = 0) -> DataSet:
    return write(TICKETS, seed)


def reports(seed: int = 0) -> DataSet:
    return write(REPORTS, seed)


def write(rules: Rules, seed: int, train: int = 640, held_out: int = 240) -> DataSet:
    """A data set of `train` sentences to learn from and `held_out` sentences to test on."""
    generator = random.Random(f"{rules.name} {seed}")
    learned, unseen = (
        _sentences(rules, templates, count, generator)
        for templates, count in ((rules.train, train), (rules.held_out, held_out))
    )
    return DataSet(rules.name, tuple(rules.train), learned, unseen)


def _sentences(
    rules: Rules, templates: Mapping[str, Sequence[str]], count: int, generator: random.Random
) -> tuple[Sentence, ...]:
    sentences: list[Sentence] = []
    for label, label_templates in templates.items():
        # A dict instead of a set, because it keeps the order.
        texts: dict[str, None] = {}
        endless_texts = _texts(rules, label_templates, generator)
        while len(texts) < count // len(templates):
            texts[next(endless_texts)] = None
        sentences += [Sentence(text, label) for text in texts]
    generator.shuffle(sentences)
    return tuple(sentences)


def _texts(rules: Rules, templates: Sequence[str], generator: random.Random) -> Iterator[str]:
    """Endless texts, from each template in turn."""
    while True:
        for template in templates:
            filled = SLOT.sub(lambda slot: generator.choice(rules.words[slot[1]]), template)
            yield generator.choice(rules.before) + filled + generator.choice(rules.after)
