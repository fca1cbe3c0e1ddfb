"""Which numbers a written answer may have."""

import pytest

from lorabel.contracts import Content, Modality
from lorabel.families.generation.answer_forms import _numbers
from lorabel.text_contracts import WrittenNumberInput

TEXT = Content(modality=Modality.TEXT, text="a review")


@pytest.mark.parametrize(
    ("minimum", "maximum", "step", "numbers"),
    [
        (0.5, 3.5, 1, [0.5, 1.5, 2.5, 3.5]),
        (1.5, 2.5, 0.25, [1.5, 1.75, 2.0, 2.25, 2.5]),
        (1, 5, 1, [1, 2, 3, 4, 5]),
    ],
)
def test_the_numbers_allowed_are_steps_from_the_minimum(
    minimum: float, maximum: float, step: float, numbers: list[float]
) -> None:
    question = WrittenNumberInput(
        contents=(TEXT,), instruction="How many stars?", minimum=minimum, maximum=maximum, step=step
    )
    assert _numbers(question) == numbers
