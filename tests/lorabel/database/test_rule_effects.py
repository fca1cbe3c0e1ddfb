"""What rules have removed is stored as REDACT says, and only if the rules are those of the prediction."""

import threading
from collections.abc import Collection

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

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


def test_rules_that_change_while_removals_are_written_leave_no_counts_of_those_before(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    removal = Removal("r", "label", "red", False, "it is so")
    forget_tasks = rule_effects.forget_tasks
    changing = threading.Thread(target=rules.set_file, args=(store, 1, RULES.replace("red", "blue")))

    def change_meanwhile(session: Session, project_id: int, task_ids: Collection[int]) -> None:
        forget_tasks(session, project_id, task_ids)
        changing.start()
        changing.join(0.3)

    monkeypatch.setattr(rule_effects, "forget_tasks", change_meanwhile)
    write(store, removal)
    changing.join()
    with store.read() as session:
        assert rules.served_number(projects.get(session, 1)) == 2
        assert rule_effects.newest(session, 1, 10) == []
