"""Rules that contradict each other beyond naming the same label, and those that do not."""

import pytest

from lorabel.labeling.label_config import parse
from lorabel.labeling.rule_binding import bind_rules
from lorabel.labeling.rule_file import read_rules

TAXONOMY = parse(
    '<View><Image name="image" value="$image"/><Taxonomy name="t" toName="image"><Choice value="animal">'
    '<Choice value="cat"/><Choice value="dog"/></Choice></Taxonomy>'
    '<Choices name="c" toName="image"><Choice value="a"/><Choice value="b"/></Choices></View>'
)


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        ('allowed = ["a"]', 'allowed = ["b"]', "where f is 'x', no label of 'c' is allowed by both"),
        (
            'allowed = ["animal / cat"]',
            'forbidden = ["animal"]',
            "one allows 'animal / cat', and the other forbids",
        ),
        ('allowed = ["animal"]', 'allowed = ["animal / cat"]', None),
        ('allowed = ["a", "b"]', 'allowed = ["b", "animal"]', None),
        ('allowed = ["animal"]', 'forbidden = ["animal / cat"]', None),
    ],
)
def test_what_two_rules_leave_for_a_field_is_something(first: str, second: str, reason: str | None) -> None:
    head = '[[field]]\nname = "{}"\nfield = "f"\nis = "x"\n'
    file = read_rules(f"{head.format(1)}{first}\n{head.format(2)}{second}\n")
    faults = bind_rules(file, TAXONOMY).faults
    assert (reason is None and not faults) or (reason is not None and reason in faults[0])


def test_a_label_that_needs_what_lies_below_one_that_excludes_it_is_refused() -> None:
    needs = '[[needs]]\nname = "1"\nlabel = "a"\nneeds = "animal / cat"\n'
    exclusive = '[[exclusive]]\nname = "2"\nlabels = ["a", "{}"]\n'
    (fault,) = bind_rules(read_rules(needs + exclusive.format("animal")), TAXONOMY).faults
    assert "'a' could never be predicted" in fault
    assert bind_rules(read_rules(needs + exclusive.format("animal / dog")), TAXONOMY).faults == ()
