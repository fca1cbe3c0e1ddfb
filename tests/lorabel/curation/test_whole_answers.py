"""Which tasks can be accepted unseen, and whether all of their answer is right."""

from typing import Any

import pytest

from lorabel.curation import whole_answers
from lorabel.errors import LorabelError
from lorabel.labeling.image_regions import image_region
from lorabel.labeling.regions import choices
from lorabel.problems.base import Problem
from lorabel.problems.binding import bind

IMAGE = '<Image name="image" value="$image"/>'
CHOICES = '<Choices name="label" toName="image"><Choice value="red"/><Choice value="blue"/></Choices>'
BOXES = '<RectangleLabels name="box" toName="image"><Label value="car"/><Label value="bus"/></RectangleLabels>'
DATA = {"image": "https://example.org/a.png"}


def problem_of(tags: str) -> Problem:
    return whole_answers.acceptable(bind(f"<View>{IMAGE}{tags}</View>"))


def box(left: float, label: str, score: float = 0.9) -> dict[str, Any]:
    corners = (left, 0.2, left + 0.2, 0.4)
    return {**image_region("box", "image", "rectanglelabels", corners, (100, 100), {"rectanglelabels": [label]}),
            "score": score}  # fmt: skip


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        (CHOICES + BOXES, "must be answered completely"),
        (CHOICES + '<TextArea name="note" toName="image"/>', "must be answered completely"),
        (CHOICES.replace("<Choices", '<Choices choice="multiple"', 1), "'label' asks for"),
        ('<Rating name="stars" toName="image"/>', "'stars' asks for"),
    ],
)
def test_other_label_configs_are_refused_with_the_reason(tags: str, reason: str) -> None:
    with pytest.raises(LorabelError, match=reason):
        problem_of(tags)


def test_a_choice_is_right_if_it_is_that_of_every_annotator() -> None:
    problem = problem_of(CHOICES)
    red, blue = ([choices("label", "image", [name])] for name in ("red", "blue"))
    target, other = problem.target(red, DATA), problem.target(blue, DATA)
    assert whole_answers.label_of(problem, red, DATA) == "red"
    assert whole_answers.is_right(problem, red, DATA, target)
    assert not whole_answers.is_right(problem, blue, DATA, target)
    assert not whole_answers.is_right(problem, red, DATA, problem.aggregate([other, target, target]))
    assert whole_answers.label_of(problem, [], DATA) is None


def test_boxes_are_right_if_none_is_wrong_or_missing() -> None:
    problem = problem_of(BOXES)
    target = problem.target([box(0.1, "car"), box(0.6, "bus")], DATA)
    predicted = [box(0.12, "car", 0.8), box(0.61, "bus")]
    assert whole_answers.is_right(problem, predicted, DATA, target)
    assert whole_answers.score_of(problem, predicted, 0.85) == 0.8
    for wrong in ([box(0.1, "car")], [*predicted, box(0.35, "car")], [box(0.1, "bus"), box(0.6, "car")]):
        assert whole_answers.is_right(problem, wrong, DATA, target) is False
