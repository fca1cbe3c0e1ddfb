"""Sentences by rule: who owns what, and who knows whom. The nearest thing is often not what a person owns."""

import random
import re
from dataclasses import dataclass

from lorabel.labeling import regions
from lorabel.labeling.regions import BOTH, RIGHT, Region

PEOPLE = (
    (
        "Ada",
        "Grace Hopper",
        "Alan",
        "Marie Curie",
        "Niels Bohr",
        "Emmy",
        "Kurt",
        "Rosalind",
        "Barbara",
        "Otto Hahn",
    )
    + ("Lise", "Max Born", "Sofia", "Hedy Lamarr", "Paul", "Carl", "Edith Clarke", "Mary", "Hans Bethe", "Erwin")
    + ("Irene", "Robert Koch", "Vera Rubin", "Felix", "Dorothy", "Linus Pauling", "Noor", "Tomasz", "Ines", "Yuki")
)
THINGS = (
    ("boat", "house", "red car", "violin", "farm", "horse", "piano", "bakery", "mill", "tent", "bicycle", "camera")
    + ("garden", "old clock", "shop", "tractor", "canoe", "lamp", "telescope", "kite", "forest", "bookshop", "van")
    + ("wooden chair", "mine", "hotel", "sheep", "drum", "sword", "carpet", "tower", "printer")
)
# Who owns what by a clause, and who knows whom, as numbers of its people and things.
CLAUSES = (
    ("{p0} owns a {t0}", ((0, 0),), ()),
    ("{p0}, who met {p1} in town, owns a {t0}", ((0, 0),), ()),
    ("{p0} and {p1} own a {t0}", ((0, 0), (1, 0)), ()),
    ("{p0} owns a {t0} and a {t1}", ((0, 0), (0, 1)), ()),
    ("the {t0} of {p0} is old", ((0, 0),), ()),
    ("{p0} saw a {t0} yesterday", (), ()),
    ("{p0} wanted the {t0} of {p1}", ((1, 0),), ()),
    ("{p0} knows {p1}", (), ((0, 1),)),
    ("{p0} painted a {t0} for {p1}", (), ()),
)
JOINTS = (", but ", ", while ", ". In spring ", "; ")
LABELS = ("Person", "Thing")
RELATIONS = ("owns", "knows")
LABEL_CONFIG = (
    "<View><Relations>"
    + "".join(f'<Relation value="{name}"/>' for name in RELATIONS)
    + '</Relations><Labels name="entity" toName="text">'
    + "".join(f'<Label value="{name}"/>' for name in LABELS)
    + '</Labels><Text name="text" value="$text"/></View>'
)
PART = re.compile(r"\{(\w)(\d)\}")


@dataclass(frozen=True)
class Sentence:
    """A sentence and what is right about it.

    Args:
        result: the regions, with ids, and the relations.
    """

    text: str
    result: list[Region]


def sentence(number: int) -> Sentence:
    """The same sentence for the same number: two or three clauses."""
    dice = random.Random(number)
    people, things = list(dice.sample(PEOPLE, 6)), list(dice.sample(THINGS, 6))
    text, result, links = "", list[Region](), list[Region]()
    for clause, owned, known in dice.choices(CLAUSES, k=dice.choice((2, 2, 3))):
        text += dice.choice(JOINTS) if text else ""
        names: dict[str, str] = {}
        ids: dict[str, str] = {}
        end = 0
        for part in PART.finditer(clause):
            text += clause[end : part.start()]
            end = part.end()
            if part[0] not in names:
                names[part[0]] = (people if part[1] == "p" else things).pop()
            ids[part[0]] = f"s{number}-{len(result)}"
            span = {"start": len(text), "end": len(text) + len(names[part[0]]), "text": names[part[0]]}
            label = LABELS["pt".index(part[1])]
            result.append({"id": ids[part[0]], **regions.labels("entity", "text", "labels", span, [label])})
            text += names[part[0]]
        text += clause[end:]
        links += [
            regions.relation(ids[f"{{p{person}}}"], ids[f"{{t{thing}}}"], RIGHT, ["owns"])
            for person, thing in owned
        ]
        links += [
            regions.relation(ids[f"{{p{first}}}"], ids[f"{{p{second}}}"], BOTH, ["knows"])
            for first, second in known
        ]
    return Sentence(f"{text}.", [*result, *links])
