"""A small model of spaCy that finds names, places and organisations, trained on sentences that are made here.

Its names are made of parts, so that tests can ask about names that it has never seen. Needs the extra `presidio`.
"""

import random
from collections.abc import Sequence
from pathlib import Path

FIRST = "Anna Ben Carla David Emma Felix Greta Hugo Ida Jonas Klara Leo Mia Noah Olga Paul Rosa Simon Tina Victor"
LAST = (
    "Adler Berger Conrad Dorn Ebert Fuchs Gerber Hahn Jung Keller Lang Maurer Neumann Ott Peters Roth Sauer Vogt"
)
PLACES = (
    "Berlin Lisbon Oslo Madrid Vienna Prague Dublin Athens Warsaw Geneva Bremen Leipzig Krakow Porto Turin Basel"
)
FIRMS = "Acme Globex Initech Umbrella Hooli Vehement Massive Soylent Stark Wayne Cyberdyne Wonka Tyrell Oscorp"
# Of these no sentence of the training has any.
UNSEEN_NAMES = ("Marta Lindqvist", "Igor Havel", "Selma Okafor", "Tobias Winter", "Yara Haddad")
UNSEEN_PLACES = ("Trondheim", "Salzburg", "Valencia")
SENTENCES = (
    "My name is {PERSON} and I live in {GPE}.",
    "{PERSON} asked for a new card last week.",
    "Dear {PERSON}, thank you for your letter.",
    "Please send the parcel to {PERSON} in {GPE}.",
    "I spoke with {PERSON} about the broken pump.",
    "{PERSON} works for {ORG} Ltd in {GPE}.",
    "The office of {ORG} Ltd is in {GPE}.",
    "She moved from {GPE} to {GPE} two years ago.",
    "{ORG} Ltd has not paid the bill yet.",
    "Yours sincerely, {PERSON}",
    "The customer {PERSON} called twice.",
    "The pump leaks and the valve is broken.",
    "Please close the valve before you open the door.",
    "I have waited for my card since last week.",
    "The parcel was broken when it came.",
    "Thank you for the quick answer, it works again.",
)

Span = tuple[int, int, str]


def sentence(pattern: str, values: dict[str, Sequence[str]]) -> tuple[str, list[Span]]:
    """A sentence, and where its entities are: start, end and label.

    Args:
        values: label -> what stands in its places, one after the other.
    """
    text, spans = "", list[Span]()
    used = dict.fromkeys(values, 0)
    for part in pattern.replace("}", "{").split("{"):
        if part in values:
            value = values[part][used[part]]
            used[part] += 1
            spans.append((len(text), len(text) + len(value), part))
            text += value
        else:
            text += part
    return text, spans


def train_name_model(folder: Path, seed: int = 0) -> Path:
    """Train a model in some seconds and write it to a folder."""
    import spacy
    from spacy.training import Example
    from spacy.util import fix_random_seed, minibatch

    fix_random_seed(seed)
    chance = random.Random(seed)
    nlp = spacy.blank("en")
    nlp.add_pipe("ner")
    examples = []
    for _ in range(300):
        values = {
            "PERSON": [f"{chance.choice(FIRST.split())} {chance.choice(LAST.split())}"],
            "GPE": chance.sample(PLACES.split(), 2),
            "ORG": [chance.choice(FIRMS.split())],
        }
        text, spans = sentence(chance.choice(SENTENCES), values)
        examples.append(Example.from_dict(nlp.make_doc(text), {"entities": spans}))
    optimizer = nlp.initialize(lambda: examples)
    for _ in range(6):
        chance.shuffle(examples)
        for batch in minibatch(examples, 16):
            nlp.update(batch, sgd=optimizer, drop=0.3)
    nlp.to_disk(folder)
    return folder
