import numpy as np
import pytest

from lorabel.contracts import Content, MediaRef, Modality
from lorabel.families.segments.spoken_segments import answered_segments
from lorabel.time_contracts import SegmentsInput

STEP_S = 0.25
QUESTION = SegmentsInput(
    contents=(Content(modality=Modality.AUDIO, media=MediaRef(url="x")),),
    labels=(("low",), ("high",)),
    step_s=STEP_S,
)
# Windows around 0, 0.25, ... 4 s: something low from 0.5 to 1.5 s, something high from 2.5 to 3.5 s.
MOMENTS = STEP_S * np.arange(17)
CHANCES = np.stack(
    [np.where((from_s <= MOMENTS) & (to_s >= MOMENTS), 0.6, 0.02) for from_s, to_s in ((0.5, 1.5), (2.5, 3.5))],
    axis=1,
).astype(np.float32)


def found(*spoken: tuple[float, float, float], is_taught: bool = False) -> list[tuple[float, float, int]]:
    question = QUESTION.model_copy(update={"spoken": spoken})
    output = answered_segments(question, CHANCES, is_taught=is_taught)
    return [(segment.start_s, segment.end_s, segment.label) for segment in output.segments]


def test_spoken_parts_have_the_label_that_fits_best_and_their_own_bounds() -> None:
    spoken = ((0.53, 1.47, 0.9), (1.7, 1.72, 0.8), (2.6, 3.4, 0.7))
    assert found(*spoken) == [(0.53, 1.47, 0), (1.7, 1.72, 0), (2.6, 3.4, 1)]
    assert found() == []


def test_probability_is_that_of_speech_and_that_of_the_label_among_all() -> None:
    output = answered_segments(
        QUESTION.model_copy(update={"spoken": ((0.5, 1.5, 0.9),)}), CHANCES, is_taught=False
    )
    (segment,) = output.segments
    assert segment.probability == pytest.approx(0.9 * 0.6 / 0.62)
    assert output.expected_overlap == pytest.approx(segment.probability)


def test_a_head_that_was_taught_leaves_out_what_has_no_label_and_adds_what_is_no_speech() -> None:
    low, high = found((0.53, 1.47, 0.9), (1.8, 2.2, 0.9), is_taught=True)
    assert low == (0.53, 1.47, 0)
    assert high[2] == 1 and high[:2] == pytest.approx((2.5, 3.5), abs=STEP_S)


def test_without_spoken_parts_windows_decide() -> None:
    output = answered_segments(QUESTION, CHANCES, is_taught=False)
    assert [segment.label for segment in output.segments] == [0, 1]
