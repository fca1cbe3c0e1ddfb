"""Whether something is heard in sounds of which it is known."""

import numpy as np
import pytest

from lorabel.media.silence import is_beginning_heard, is_middle_heard
from tests.audio_files import RATE_HZ, Samples, encoded, tone

SILENT = np.zeros(3 * RATE_HZ, np.float32)


@pytest.mark.parametrize(
    ("sound", "in_middle", "in_beginning"),
    [
        (SILENT, False, False),
        (np.concatenate([tone(300), SILENT]), False, True),
        (np.concatenate([SILENT, tone(300), SILENT]), True, False),
    ],
)
def test_a_part_is_heard_where_it_has_a_sound(sound: Samples, in_middle: bool, in_beginning: bool) -> None:
    file = encoded(sound)
    assert is_middle_heard(file, 1.0) == in_middle
    assert is_beginning_heard(file, 1.0) == in_beginning


def test_a_file_without_a_sound_is_not_heard() -> None:
    assert not is_middle_heard(b"no sound", 1.0)
    assert not is_beginning_heard(b"no sound", 1.0)
