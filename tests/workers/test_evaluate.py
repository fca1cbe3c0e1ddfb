from types import SimpleNamespace
from typing import Any

from workers.evaluate import split_for_cross_validation


def example(number: int, is_new: bool) -> Any:
    return SimpleNamespace(number=number, training_example=SimpleNamespace(is_new=is_new))


def test_each_new_example_is_tested_once_by_a_model_that_has_not_seen_it() -> None:
    train = [example(number, is_new=number >= 4) for number in range(12)]
    splits = split_for_cross_validation(train)
    assert sorted(example.number for _, tested in splits for example in tested) == list(range(4, 12))
    for learned, tested in splits:
        assert {example.number for example in [*learned, *tested]} == set(range(12))
        assert len(learned) + len(tested) == 12


def test_old_examples_are_never_tested_because_live_has_learned_them() -> None:
    assert split_for_cross_validation([example(1, is_new=False)]) == []
    splits = split_for_cross_validation([example(1, is_new=True), example(2, is_new=True)])
    assert [len(tested) for _, tested in splits] == [1, 1]
