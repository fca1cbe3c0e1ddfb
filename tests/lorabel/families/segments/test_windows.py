import numpy as np
import pytest

from lorabel.contracts import Content, MediaRef, Modality
from lorabel.families.segments.windows import count_windows, window_shares, window_truth
from lorabel.time_contracts import STEP_S, SegmentsInput, SegmentTarget


@pytest.mark.parametrize(
    ("read_s", "windows"),
    [(0.001, 1), (0.2499, 1), (0.25, 2), (1.0, 5), (6.0, 25), (0.1 + 0.2 - 0.05, 2)],
)
def test_a_window_is_at_every_step_from_the_first_moment_to_the_last(read_s: float, windows: int) -> None:
    assert count_windows(read_s, STEP_S) == windows


def test_shares_are_those_that_a_fine_grid_of_moments_counts() -> None:
    rng = np.random.default_rng(0)
    spans = [(start, start + length, int(rng.integers(3))) for start, length in rng.uniform(0, 2, (4, 2))]
    shares = window_shares(SegmentTarget(tuple(sorted(spans))), 17, 3, STEP_S)
    for window in range(17):
        begin = max(0.0, (window - 0.5) * STEP_S)
        moments = np.linspace(begin, (window + 0.5) * STEP_S, 10_001)
        for label in range(3):
            covered = sum(
                np.mean((start <= moments) & (moments < end)) for start, end, index in spans if index == label
            )
            assert shares[window, label] == pytest.approx(min(1.0, covered), abs=1e-3)


def test_a_sound_without_segments_has_shares_of_0() -> None:
    assert not window_shares(SegmentTarget(()), 5, 2, STEP_S).any()


def test_a_frame_of_a_video_is_in_a_segment_or_not_and_a_window_of_a_sound_by_its_share() -> None:
    """Frames are at 0, 0.25, 0.5, 0.75 and 1 s. The second segment begins with one of them."""
    target = SegmentTarget(((0.1, 0.45, 0), (0.75, 0.9, 1), (0.26, 0.49, 1)))
    video, sound = (
        SegmentsInput(contents=(Content(modality=modality, media=MediaRef(url="x")),), labels=(("a",), ("b",)))
        for modality in (Modality.VIDEO, Modality.AUDIO)
    )
    assert window_truth(video, target, 5).T.tolist() == [[0, 1, 0, 0, 0], [0, 0, 0, 1, 0]]
    np.testing.assert_array_equal(window_truth(sound, target, 5), window_shares(target, 5, 2, STEP_S))
