"""Some annotations contradict what their pictures show. The vectors are made up, in place of a model's."""

import numpy as np
import pytest

from lorabel.curation import label_errors
from lorabel.curation.label_errors import LabelErrors, annotated_answers
from lorabel.database.tables import Annotation
from lorabel.errors import LorabelError
from lorabel.problems.binding import bind

COLOURS = ("red", "blue", "green")


def config(attributes: str = "") -> str:
    choices = "".join(f'<Choice value="{value}"/>' for value in COLOURS)
    image = '<Image name="image" value="$image"/>'
    return f'<View>{image}<Choices name="label" toName="image" {attributes}>{choices}</Choices></View>'


def find(config: str, *annotations: tuple[str, str]) -> LabelErrors:
    """Check annotations with the ids 1, 2, ..., each of another task: the shown colours and the given colours.

    The vector of a task has a 1 for each colour that is shown, and a little noise. A broken picture has none.
    """
    rows, vectors = [], {}
    for number, (shown, given) in enumerate(annotations, start=1):
        choices = {"from_name": "label", "type": "choices", "value": {"choices": given.split()}}
        data = {"image": "http://pictures.test/"}
        result = [choices] if given else []
        rows.append(Annotation(id=number, project_id=1, task_id=number, task_data=data, result=result))
        if shown != "broken":
            axes = np.array([float(colour in shown) for colour in COLOURS])
            vectors[number] = (axes + np.random.default_rng(number).normal(0, 0.1, 3)).astype("f4")
    (problem,) = bind(config).bindings
    return label_errors.find({"label": annotated_answers(problem, rows)}, vectors, seed=17)


def test_the_wrong_annotation_is_found_with_the_right_label() -> None:
    right = [("red", "red"), ("blue", "blue"), ("green", "green")] * 8
    label_errors = find(config(), *right, ("red", "green"), ("broken", "red"))
    (error,) = label_errors.errors
    assert (error.from_name, error.task_id, error.annotation_id) == ("label", 25, 25)
    assert (error.given, error.suggested) == ("green", "red")
    assert error.score < 0.3
    assert (label_errors.checked, label_errors.left_out) == (25, [])


def test_with_multiple_choice_a_missing_label_and_a_superfluous_label_are_found() -> None:
    right = [("red", "red"), ("red blue", "red blue"), ("blue", "blue"), ("nothing", "")] * 8
    errors = find(config('choice="multiple"'), *right, ("red blue", "red"), ("nothing", "blue")).errors
    assert {(error.task_id, error.given, error.suggested) for error in errors} == {
        (33, "", "blue"),
        (34, "blue", ""),
    }
    assert [error.score for error in errors] == sorted(error.score for error in errors)


def test_a_label_of_too_few_tasks_is_left_out_and_named() -> None:
    label_errors = find(config(), *[("red", "red"), ("blue", "blue")] * 6, *[("green", "green")] * 4)
    assert (label_errors.errors, label_errors.checked) == ([], 12)
    assert label_errors.left_out == ["label: 'green' was given to 4 tasks, 5 needed"]


@pytest.mark.parametrize(
    ("annotations", "reason"),
    [
        ([], "no annotation .* gives labels from a list; they are looked for in Choices and Taxonomy"),
        ([("red", "red")] * 9, "label: all 9 annotations say the same"),
        ([("red", "red")] * 9 + [("blue", "blue")] * 3, "label: 'blue' was given to 3 tasks, 5 needed"),
    ],
)
def test_too_few_annotations_are_refused_with_how_many_are_needed(
    annotations: list[tuple[str, str]], reason: str
) -> None:
    with pytest.raises(LorabelError, match=f"label errors cannot be looked for: {reason}"):
        find(config(), *annotations)


def test_labels_for_which_there_is_no_time_are_left_out_and_named() -> None:
    answers = [
        label_errors.AnnotatedAnswer(number, number, frozenset(given))
        for number, given in enumerate([("red",), ("blue",), ("red", "blue"), ()] * 8, start=1)
    ]
    vectors = {
        answer.task_id: np.array(
            [float("red" in answer.labels), float("blue" in answer.labels), answer.task_id / 100], dtype="f4"
        )
        for answer in answers
    }
    times = iter([True, False])
    found = label_errors.find({"label": answers}, vectors, seed=17, has_time=lambda: next(times))
    assert found.checked == 32
    assert found.left_out == [f"label: 'red' and all labels after it: {label_errors.OUT_OF_TIME}"]
