"""The internal scale of ratings, around 0, so that one learning rate or one strength fits every question.

Between two bounds this is the scale of five stars: -2 is the minimum, 2 is the maximum. If a bound is missing, the
scale is logarithmic (symlog, https://arxiv.org/abs/2301.04104).
"""

import math

from lorabel.contracts import Estimate, RatingInput

# Length of the internal scale between two bounds: the distance from the first star to the fifth.
SCALE_LENGTH = 4.0
# Largest absolute position on the logarithmic scale, so that the number stays finite.
MAX_SYMLOG = 50.0


def to_position(question: RatingInput, value: float) -> float:
    """Convert a number to its position on the internal scale."""
    if question.minimum is None or question.maximum is None:
        return math.copysign(math.log1p(abs(value)), value)
    return SCALE_LENGTH * ((value - question.minimum) / (question.maximum - question.minimum) - 0.5)


def to_number(question: RatingInput, position: float, error: float) -> Estimate:
    """Convert a position and its expected error to the unit of the question, within the question's bounds."""
    minimum, maximum = question.minimum, question.maximum
    if minimum is None or maximum is None:
        position = max(-MAX_SYMLOG, min(MAX_SYMLOG, position))
        value, unit = math.copysign(math.expm1(abs(position)), position), math.exp(abs(position))
    else:
        length = maximum - minimum
        value, unit = minimum + (position / SCALE_LENGTH + 0.5) * length, length / SCALE_LENGTH
    value = value if minimum is None else max(minimum, value)
    value = value if maximum is None else min(maximum, value)
    return Estimate(value=value, expected_error=error * unit)
