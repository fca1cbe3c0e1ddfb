"""Files of rules that strain the parser of TOML."""

import pytest

from lorabel.errors import RulesError
from lorabel.labeling.rule_file import read_rules


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (".".join(["a"] * 49_000) + " = 1", "more than 20 dots in line 1"),
        ("\n[" + " . ".join(['"\\""'] * 9_000) + "]", "more than 20 dots in line 2"),
        ("a = " + "[" * 50_000, "too many brackets in brackets"),
        ("a = " + "1" * 5000, "no TOML: Exceeds the limit"),
        ("a" * 99_999, "no TOML"),
    ],
    ids=["dots", "quoted", "brackets", "digits", "long"],
)
def test_a_file_that_would_take_long_or_break_the_parser_is_refused(text: str, reason: str) -> None:
    with pytest.raises(RulesError, match=reason):
        read_rules(text)


def test_many_numbers_and_a_byte_order_mark_are_read() -> None:
    values = ", ".join(f"{number}.5" for number in range(40))
    rules = f"\ufeff[[field]]\nname = 'x'\nfield = 'f'\nis = [{values}]\nforbidden = ['Car']"
    (rule,) = read_rules(rules).field
    assert rule.values[0] == "0.5"
    assert len(rule.values) == 40
