"""Whether anything can be heard in the sound of a file, so that no model is asked about silence."""

from collections.abc import Callable
from functools import partial

import numpy as np

from lorabel.errors import UnreadableError
from lorabel.media.audio import Sound, decode_audio, decode_beginning

# Sounds in which nothing is louder are silent. 16 bits cannot say less than a third of this.
SILENCE = 1e-4
PROBE_RATE_HZ = 8000


def is_middle_heard(data: bytes, most_s: float) -> bool:
    """Return whether something is heard in the middle of a file; False if it has no sound that can be decoded.

    Args:
        most_s: see `decode_audio`.
    """
    return _is_loud(partial(decode_audio, data, PROBE_RATE_HZ, most_s))


def is_beginning_heard(data: bytes, most_s: float) -> bool:
    """As `is_middle_heard`, of the beginning of a file; see `decode_beginning`."""
    return _is_loud(lambda: decode_beginning(data, PROBE_RATE_HZ, most_s)[0])


def _is_loud(decode: Callable[[], Sound]) -> bool:
    try:
        return bool(np.abs(decode()).max() > SILENCE)
    except UnreadableError as error:
        if not error.is_permanent:
            raise
        return False
