from lorabel.evaluation.agreement import (
    NO_LABEL,
    SEVERAL,
    Outcome,
    Shown,
    Spread,
    confusion,
    label_figures,
    spread,
)


def case(task_id: int, predicted: set[str], annotated: set[str], outcome: Outcome) -> Shown:
    return Shown(task_id, outcome, {"tag": predicted}, {"tag": annotated})


CASES = [
    case(1, {"a"}, {"a"}, Outcome.UNCHANGED),
    case(2, {"a"}, {"b"}, Outcome.CORRECTED),
    case(3, {"a", "b"}, {"a"}, Outcome.CORRECTED),
    case(4, {"b"}, set(), Outcome.EMPTIED),
    case(5, set(), {"a"}, Outcome.CORRECTED),
    Shown(6, Outcome.UNCHANGED, None, {"tag": {"a"}}),  # its prediction is not known
]


def test_labels_are_counted_once_a_task() -> None:
    a, b = label_figures(CASES)
    assert (a.label, a.predicted, a.right, a.support) == ("a", 3, 2, 3)
    assert (a.precision, a.recall) == (2 / 3, 2 / 3)
    assert (b.label, b.predicted, b.right, b.support) == ("b", 2, 0, 1)
    assert a.outcomes == {Outcome.UNCHANGED: 1, Outcome.CORRECTED: 2}
    assert b.outcomes == {Outcome.CORRECTED: 1, Outcome.EMPTIED: 1}


def test_a_confusion_matrix_has_the_tasks_of_each_cell() -> None:
    matrix = confusion(CASES, "tag", 10)
    assert matrix.labels == ["a", "b", SEVERAL, NO_LABEL]
    assert matrix.task_ids == {
        ("a", "a"): [1],
        ("b", "a"): [2],
        ("a", SEVERAL): [3],
        (NO_LABEL, "b"): [4],
        ("a", NO_LABEL): [5],
    }
    assert confusion(CASES, "other tag", 10).labels == []


def test_rare_labels_have_no_row() -> None:
    assert confusion(CASES, "tag", 1).labels == ["a", SEVERAL, NO_LABEL]


def test_the_spread_of_values() -> None:
    assert spread([]) is None
    assert spread([3.0]) == Spread(1, 3.0, 3.0, 3.0)
    times = spread([1.0, 2.0, 3.0, 4.0, 100.0])
    assert times is not None and (times.count, times.low, times.median, times.high) == (5, 2.0, 3.0, 4.0)
