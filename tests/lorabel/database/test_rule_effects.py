"""What rules have removed is stored as REDACT says, and only if the rules are those of the prediction."""

from sqlalchemy import select

from lorabel.database import projects, rule_effects, rules
from lorabel.database.store import Store
from lorabel.database.tables import RuleEffect
from lorabel.labeling.rules import Removal
from lorabel.redaction import Redactor
from tests.backend.requests import CONFIG

EMAIL = Redactor(["email"], {})
ADDRESS = "anna.b@mail.com"
RULES = '[[field]]\nname = "r"\nfield = "country"\nis = "DE"\nforbidden = ["red"]\n'


def write(store: Store, removal: Removal) -> list[RuleEffect]:
    projects.upsert(store, 1, label_config=CONFIG)
    rules.set_file(store, 1, RULES)
    rule_effects.write(store, EMAIL, 1, "p1.v0.r1", {7: [removal]})
    with store.read() as session:
        return list(session.scalars(select(RuleEffect)))


def test_a_removed_text_and_the_reason_are_stored_masked(store: Store) -> None:
    """The address is where a stored text is cut, and a part of it would not look like an address."""
    text = "x" * (rule_effects.LONGEST_WHAT - 6) + " " + ADDRESS
    (effect,) = write(store, Removal("r", "text", text, True, f"mail is {ADDRESS!r}"))
    ((kept,),) = [effect.removals]
    assert "anna" not in str(kept)
    assert len(str(kept["what"])) == rule_effects.LONGEST_WHAT
    assert kept["why"] == "mail is 'xxxx.x@xxxx.xxx'"


def test_a_label_is_stored_as_it_is(store: Store) -> None:
    (effect,) = write(store, Removal("r", "label", ADDRESS, False, "it is so"))
    assert effect.removals[0]["what"] == ADDRESS
