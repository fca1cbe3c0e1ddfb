"""`lorabel rules` sets, checks, shows and deletes the rules of a project."""

import json
from pathlib import Path

import pytest

from lorabel.database import projects, rule_effects
from lorabel.database.store import Store
from lorabel.labeling.rules import Removal
from lorabel.redaction import Redactor
from tests.backend.requests import CONFIG
from tests.lorabel.commands.conftest import RunLorabel

RULES = '# What we agreed on.\n[[field]]\nname = "no red"\nfield = "country"\nis = "DE"\nforbidden = ["red"]\n'


@pytest.fixture(autouse=True)
def project(store: Store) -> None:
    projects.upsert(store, 1, label_config=CONFIG)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "rules.toml"
    path.write_text(RULES)
    return path


def test_rules_are_set_shown_with_what_they_removed_and_deleted(
    lorabel: RunLorabel, store: Store, file: Path
) -> None:
    assert "no rules" in lorabel("rules", "1").output
    checked = lorabel("rules", "1", "check", str(file))
    assert (checked.exit_status, checked.output) == (0, "1 rule fits the label config of project 1\n")
    assert "no rules" in lorabel("rules", "1").output, "a check has set them"
    assert "project 1 has 1 rule now" in lorabel("rules", "1", "set", str(file)).output
    removal = Removal("no red", "label", "red", False, "country is 'DE'")
    rule_effects.write(store, Redactor([], {}), 1, "p1.v0.r1", {7: [removal], 8: []})
    shown = lorabel("rules", "1", "show").output
    assert RULES.strip() in shown
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    assert "no red field 1 1" in lines
    assert "7 no red red (label) country is 'DE'" in lines
    printed = json.loads(lorabel("rules", "1", "--json").output)
    assert printed["rules"] == [{"rule": "no red", "kind": "field", "tasks": 1, "removals": 1}]
    assert printed["tasks"][0]["task_id"] == 7
    projects.upsert(store, 1, label_config=CONFIG.replace('"red"', '"crimson"'))
    assert "not applied: [[field]] ('no red'): the label config has no label 'red'" in lorabel("rules", "1").output
    assert lorabel("rules", "1", "check").exit_status == 1
    assert lorabel("rules", "1", "delete").output == "project 1 has no rules now\n"
    assert "no rules" in lorabel("rules", "1").output


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("9", "set", "FILE"), "project 9 is not known here"),
        (("1", "set", "FILE.gone"), "cannot be read as a text in UTF-8"),
        (("1", "set"), "name the file of rules"),
        (("1", "delete", "FILE"), "delete takes no file"),
        (("1", "check", "/dev/null/x"), "cannot be read"),
    ],
)
def test_what_cannot_be_done_is_said(
    lorabel: RunLorabel, file: Path, arguments: tuple[str, ...], reason: str
) -> None:
    result = lorabel("rules", *(argument.replace("FILE", str(file)) for argument in arguments))
    assert result.exit_status != 0
    assert reason in " ".join(result.errors.replace("│", "").split())


def test_every_fault_of_a_file_is_on_a_line_and_nothing_is_set(lorabel: RunLorabel, file: Path) -> None:
    file.write_text(
        RULES.replace('["red"]', '["red", "green"]') + "[[pattern]]\nname = 'p'\ntag = 'label'\nmatches = 'a'\n"
    )
    result = lorabel("rules", "1", "set", str(file))
    assert result.exit_status == 1
    assert result.errors.splitlines() == [
        "error: [[field]] ('no red'): the label config has no label 'green'; it has 'red', 'blue'",
        "[[pattern]] ('p'): control tag 'label' is <Choices>; a pattern is for texts of a <TextArea>",
    ]
    assert "no rules" in lorabel("rules", "1").output
