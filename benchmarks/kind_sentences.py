"""Writes sentences with people, cities and companies. Test sentences have other names and other templates."""

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

KINDS = ("Person", "City", "Company")
SLOT = re.compile(r"\{(\w+)\}")

SentenceWithSpans = tuple[str, list[tuple[int, int, str]]]
"""A text, and (start, end, kind) of each name in characters; the end is exclusive."""


def _names(listed: str) -> list[str]:
    return [name.strip() for name in listed.split(",")]


TEMPLATES = (
    "{Person} moved to {City} last spring.",
    "Yesterday {Person} signed the contract with {Company}.",
    "{Company} opens a new office in {City}.",
    "The train from {City} to {City} was late again.",
    "Please send the invoice to {Person} by Friday.",
    "{Person} and {Person} met at the airport.",
    "Nobody at {Company} answered the phone today.",
    "The weather in {City} was better than in {City}.",
    "According to {Person}, the prices of {Company} will rise.",
    "Our customers in {City} wait for their parcels.",
    "The meeting was moved to next week because of the holiday.",
    "A letter from {Company} arrived for {Person} in the morning.",
    "Why did {Person} leave {Company} after two years?",
    "The old bridge near the station is closed for repairs.",
)
TEST_TEMPLATES = (
    "{Company} has asked {Person} to lead its branch in {City}.",
    "We drove through {City} on our way to the coast.",
    "The report that {Person} wrote is on your desk.",
    "Shares of {Company} fell after the news from {City}.",
    "Did you hear that {Person} works for {Company} now?",
    "They had lunch with {Person} in a small village.",
    "The software crashed twice and nobody knows why.",
    "{City} and {City} applied for the games.",
)
FIRST = _names(
    """
    Anna, Boris, Clara, David, Elena, Felix, Greta, Hugo, Irene, Jonas, Katrin, Leon, Maria, Nils, Olga, Peter,
    Rosa, Simon, Tessa, Viktor
    """
)
LAST = _names(
    """
    Adler, Brandt, Castro, Dumont, Eriksen, Fischer, Garcia, Hansen, Ivanov, Jensen, Keller, Lindqvist, Moretti,
    Novak
    """
)
CITIES = _names(
    """
    Vienna, Oslo, Lima, Cairo, Tokyo, Rome, Lisbon, Dublin, Delhi, Prague, Seoul, Boston, Athens, Quito, Madrid,
    Helsinki, Warsaw, Kyoto, Geneva, Hanoi, Bergen, Porto, Graz, Leeds
    """
)
COMPANIES = _names(
    """
    Norwind, Alpha Steel, Brightwater Ltd, Teleon, Kestrel Systems, Hofmann & Sons, Datavia, Greenfield Foods,
    Orbix, Silverline Bank, Polaris Motors, Vantor, Meridian Press, Lumen Optics, Quarry Partners, Aquila
    """
)
TEST_FIRST = _names("Oscar, Paula, Ruth, Stefan, Ursula, Walter, Yvonne, Zoe, Carlos, Ingrid")
TEST_LAST = _names(
    """
    Okafor, Petrov, Quinn, Rossi, Schneider, Tanaka, Vargas, Weber, Yilmaz, Zimmer
    """
)
TEST_CITIES = _names(
    """
    Berlin, London, Paris, Zurich, Chicago, Naples, Toronto, Riga, Sofia, Munich, Ghent, Turin
    """
)
TEST_COMPANIES = _names(
    """
    Solvex, Northgate Energy, Baxter & Cole, Cloudberry, Ferrum Tools, Harbor Insurance, Intelon, Riverside
    Dairy
    """
)


def to_learn(count: int) -> Iterator[SentenceWithSpans]:
    """Yield sentences to annotate, always the same."""
    people = [f"{first} {last}" for first in FIRST for last in LAST] + FIRST
    return _write(count, TEMPLATES, {"Person": people, "City": CITIES, "Company": COMPANIES}, 41)


def to_test(count: int) -> Iterator[SentenceWithSpans]:
    """Yield sentences to test, always the same."""
    people = [f"{first} {last}" for first in TEST_FIRST for last in TEST_LAST] + TEST_FIRST
    words = {"Person": people, "City": TEST_CITIES, "Company": TEST_COMPANIES}
    return _write(count, TEST_TEMPLATES, words, 42)


def _write(
    count: int, templates: Sequence[str], words: Mapping[str, Sequence[str]], seed: int
) -> Iterator[SentenceWithSpans]:
    dice = random.Random(seed)
    for _ in range(count):
        yield _fill(dice.choice(templates), MappingProxyType(words), dice)


def _fill(template: str, words: Mapping[str, Sequence[str]], dice: random.Random) -> SentenceWithSpans:
    text, spans = "", []
    for index, part in enumerate(SLOT.split(template)):
        if index % 2:
            name = dice.choice(words[part])
            spans.append((len(text), len(text) + len(name), part))
            part = name
        text += part
    return text, spans
