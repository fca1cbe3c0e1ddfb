"""Which line of a file of rules a fault is about."""

import pytest

from lorabel.errors import RulesError
from lorabel.labeling.label_config import parse
from lorabel.labeling.rule_binding import require_fit
from lorabel.labeling.rule_file import read_rules
from lorabel.labeling.rule_lines import place_faults

CONFIG = (
    '<View><Image name="image" value="$image"/><RectangleLabels name="box" toName="image"><Label value="Car"/>'
    '<Label value="Dog"/></RectangleLabels><Choices name="kind" toName="image"><Choice value="a"/>'
    '<Choice value="b"/></Choices></View>'
)
RULES = """# first
[[exclusive]]
name = "one"
labels = ["Car", "Dog"]

[[minimum_size]]
name = "small"
tag = "box"
width_percent = 2

[[minimum_size]]
tag = "box"
name = "smaller"
width_px = 3

[[needs]]
name = "a car"
label = "a"
needs = "Car"
"""


def lines_of(text: str) -> list[int | None]:
    """The lines of all faults, as the page finds them."""
    try:
        require_fit(read_rules(text), parse(CONFIG))
    except RulesError as error:
        return [fault.line for fault in place_faults(text, str(error).split("\n"))]
    return []


@pytest.mark.parametrize(
    ("wrong", "instead", "lines"),
    [
        ("# first", "# first", []),
        ('name = "one"', "name = ", [3]),  # no TOML
        ("width_percent = 2", "width_percent = 200", [9]),
        ("width_px = 3", 'width_px = "wide"', [14]),
        ("width_px = 3", "width_pixels = 3", [14]),
        ('labels = ["Car", "Dog"]', 'labels = ["Car"]', [4]),
        ('name = "small"', "", [6]),  # what is missing has no line
        ('labels = ["Car", "Dog"]', 'labels = ["Car", "Cat"]', [3]),  # it does not fit: the rule is named
        ('needs = "Car"', 'needs = "Bus"', [17]),
        ('name = "smaller"', 'name = "small"', [None]),  # two rules
        ("[[needs]]", "[[need]]", [None]),
    ],
)
def test_a_fault_has_the_line_of_its_field_or_rule(wrong: str, instead: str, lines: list[int | None]) -> None:
    assert lines_of(RULES.replace(wrong, instead)) == lines


def test_rules_that_contradict_each_other_lead_to_the_first() -> None:
    more = '[[exclusive]]\nname = "two"\nlabels = ["a", "Car"]\n'
    assert lines_of(RULES + more) == [17]


def test_lines_that_cannot_be_told_apart_are_not_guessed() -> None:
    text = 'needs = [{name = "n", label = "x", needs = "y"}]\n# "n"\n'
    assert lines_of(text) == [None]
