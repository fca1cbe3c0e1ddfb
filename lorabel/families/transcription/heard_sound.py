"""A sound that the family `speech` has made ready, window by window."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import TypeVar

from torch import Tensor

from lorabel.families.transcription.told_words import NOTHING, Told
from lorabel.text_contracts import TranscriptInput

T = TypeVar("T")
# Of each layer of the decoder, keys and values (1, heads, positions, dim) of a window.
Keys = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Hearing:
    """What a model has heard in a window before it writes. It depends on the sound alone, not on adapters.

    Args:
        states: (positions, width) of the encoder.
        prompt: the tokens before the text: the start, the language and the task if the model knows several, and
            that there are no timestamps.
        no_speech_probability: that nobody speaks in the window.
    """

    states: Tensor
    prompt: tuple[int, ...]
    no_speech_probability: float

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return self.states.nbytes


@dataclass(frozen=True)
class Encoding:
    """What a part of the encoder's layers has computed of a window.

    Args:
        states: (1, positions, width) after these layers.
        layers: their number.
    """

    states: Tensor
    layers: int = 0


@dataclass(eq=False)
class Window:
    """A part of a sound that is not longer than a model hears at once.

    Args:
        key: names its content; equal for equal windows.
        length_s: in seconds.
        mel: (bands, frames) float32: its spectrogram; None once it was heard.
        encoding: how far the encoder is; None before it began, and once the window was heard.
        hearing: None until then.
        draft: what the base model has written about it; None if it was not asked.
        keys: those of `Line`, of the base model, from when the window was heard until it is written.
    """

    key: tuple[str, int, int]
    length_s: float
    mel: Tensor | None = None
    encoding: Encoding | None = None
    hearing: Hearing | None = None
    draft: str | None = None
    keys: Keys = field(default_factory=list)

    def keep(self, hearing: Hearing) -> None:
        """Keep what was heard, in place of the spectrogram."""
        self.hearing, self.mel, self.encoding = hearing, None, None


@dataclass(frozen=True)
class PreparedSound:
    """A question about a sound.

    Args:
        windows: in the order of time; at least one.
        is_cut: whether the end of the sound was not read.
        told: the names and terms of the question.
        counts: how many windows each segment has that is asked about; none for one that was not read.
    """

    question: TranscriptInput
    windows: tuple[Window, ...]
    is_cut: bool = False
    told: Told = NOTHING
    counts: tuple[int, ...] = ()

    def of_segments(self, of_windows: Sequence[T]) -> list[Sequence[T]]:
        """Return what belongs to the windows as what belongs to those of each segment."""
        starts = [0, *accumulate(self.counts)]
        return [of_windows[start:end] for start, end in pairwise(starts)]


@dataclass(frozen=True)
class Spans:
    """Where the windows of a sound are, for the cache.

    Args:
        windows: key and length in seconds of each.
        is_cut: see `PreparedSound`.
        counts: see `PreparedSound`.
    """

    windows: tuple[tuple[tuple[str, int, int], float], ...]
    is_cut: bool
    counts: tuple[int, ...] = ()

    @property
    def nbytes(self) -> int:
        """Bytes in memory, about."""
        return 200 * len(self.windows)


@dataclass(eq=False)
class Line:
    """The text of a window while it is written; what `Decoding` takes for a prepared input.

    Args:
        prompt: that of `Hearing`, and the words before it.
        max_new_tokens: of the text.
        told: names and terms with which the prompt begins.
        keys: of each layer of the decoder, keys and values (1, heads, positions, dim) of the window; empty until
            the prompt was read, unless the base model has computed them when it heard the window.
    """

    window: Window
    prompt: tuple[int, ...]
    max_new_tokens: int
    told: Told = NOTHING
    keys: Keys = field(default_factory=list)
    constraint: None = None
