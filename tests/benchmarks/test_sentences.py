from collections import Counter
from collections.abc import Callable

import pytest

from benchmarks.sentences import REPORTS, SLOT, TICKETS, DataSet, Rules, reports, tickets

BOTH = pytest.mark.parametrize(("make", "rules"), [(tickets, TICKETS), (reports, REPORTS)])


@BOTH
def test_labels_have_equally_many_sentences_and_no_text_comes_twice(
    make: Callable[[int], DataSet], rules: Rules
) -> None:
    data_set = make(0)
    assert (len(data_set.train), len(data_set.held_out)) == (640, 240)
    for part in (data_set.train, data_set.held_out):
        assert set(Counter(sentence.label for sentence in part).values()) == {len(part) // len(data_set.labels)}
        assert len({sentence.text for sentence in part}) == len(part)
    assert not {sentence.text for sentence in data_set.train} & {sentence.text for sentence in data_set.held_out}


@BOTH
def test_the_same_seed_writes_the_same_sentences_and_another_seed_does_not(
    make: Callable[[int], DataSet], rules: Rules
) -> None:
    assert make(3) == make(3)
    assert make(3) != make(4)


@BOTH
def test_held_out_sentences_come_from_other_templates_of_the_same_labels(
    make: Callable[[int], DataSet], rules: Rules
) -> None:
    assert list(rules.train) == list(rules.held_out) == list(make(0).labels)
    learned = {template for templates in rules.train.values() for template in templates}
    unseen = {template for templates in rules.held_out.values() for template in templates}
    assert not learned & unseen
    for sentence in make(0).held_out:
        assert any(_constant(template) in sentence.text for template in rules.held_out[sentence.label])
        assert not any(_constant(template) in sentence.text for template in rules.train[sentence.label])


def _constant(template: str) -> str:
    """The longest part of the template that each of its sentences contains."""
    return max((part for index, part in enumerate(SLOT.split(template)) if index % 2 == 0), key=len)
