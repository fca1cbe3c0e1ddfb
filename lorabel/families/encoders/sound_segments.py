"""What an encoder of sounds needs to find segments: each window of a sound is a content with features of its own.

How windows lie is in `lorabel.families.segments.sound_windows`, how their probabilities become segments in
`lorabel.families.segments.found_segments`.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lorabel.contracts import BatchAdapters, Contract, Input, Modality
from lorabel.errors import UnreadableError
from lorabel.families.base import DigestOf, Fetch
from lorabel.families.cache import FEATURES, FeatureCache
from lorabel.families.encoders.encoder import Encoder
from lorabel.families.encoders.heads.base import HeadParameters
from lorabel.families.encoders.prepared_input import PreparedContent, PreparedInput, content_digest
from lorabel.families.segments.sound_windows import count_windows
from lorabel.feature_contracts import SegmentFeaturesInput
from lorabel.media.fetching import digest
from lorabel.time_contracts import SegmentScores, SegmentsInput


@dataclass(frozen=True)
class WindowedSound:
    """The windows of a sound, decoded.

    Args:
        windows: what `encode` reads, one for each window; they may share memory.
        read_s: how much of the sound was read, from its beginning, in seconds.
        length_s: of the whole sound, in seconds.
    """

    windows: Sequence[Tensor]
    read_s: float
    length_s: float


@dataclass(frozen=True)
class PreparedSound(PreparedInput):
    """A question about segments of a sound. `contents` are the windows.

    Args:
        digest: of the sound.
        read_s: see `WindowedSound`.
        length_s: see `WindowedSound`.
    """

    digest: str = ""
    read_s: float = 0.0
    length_s: float = 0.0


class SegmentingEncoder(Encoder):
    """An encoder that also finds segments in sounds."""

    @abstractmethod
    def read_windows(self, file: bytes) -> WindowedSound:
        """Decode a sound, and cut it into windows.

        Raises:
            UnreadableError: the file is broken, of an unknown format, or has no samples; this is permanent.
        """

    def prepare(self, question: Input, fetch: Fetch) -> PreparedInput:
        """Read and decode the contents of a question; see `Family.prepare`."""
        if not _is_about_segments(question):
            return super().prepare(question, fetch)
        media = question.contents[0].media
        if media is None:
            raise UnreadableError("the sound has no address", is_permanent=True)
        file = fetch(media)
        sound, sound_digest = self.read_windows(file), digest(file)
        contents = (
            PreparedContent(Modality.AUDIO, data, digest=_window_digest(sound_digest, number), is_part=True)
            for number, data in enumerate(sound.windows)
        )
        return PreparedSound(question, tuple(contents), None, sound_digest, sound.read_s, sound.length_s)

    def recall_contents(
        self, question: Input, digest_of: DigestOf, adapter: str | None, bank: BatchAdapters, cache: FeatureCache
    ) -> PreparedInput | None:
        """Build a `PreparedInput` from cached features; see `ContentEncoder.recall_contents`."""
        if not _is_about_segments(question):
            return super().recall_contents(question, digest_of, adapter, bank, cache)
        sound_digest = content_digest(question.contents[0], digest_of)
        lengths = None if sound_digest is None else cache.get(FEATURES, _lengths_key(sound_digest))
        if sound_digest is None or lengths is None:
            return None
        read_s, length_s = lengths.tolist()
        contents = []
        for number in range(count_windows(read_s)):
            window_digest = _window_digest(sound_digest, number)
            key = self._feature_key(Modality.AUDIO, window_digest, adapter, bank)
            features, frozen = cache.get(FEATURES, key), None
            if key.adapter is not None:
                frozen = cache.get(FEATURES, key._replace(adapter=None))
            if features is None:
                return None
            contents.append(
                PreparedContent(Modality.AUDIO, None, features[None], window_digest, frozen, is_part=True)
            )
        return PreparedSound(question, tuple(contents), None, sound_digest, read_s, length_s)

    def predict(
        self,
        prepared_inputs: Sequence[PreparedInput],
        adapters: Sequence[str | None],
        bank: BatchAdapters,
        cache: FeatureCache,
    ) -> Sequence[Contract]:
        """Compute one output per input, and keep how long the sounds are; see `Family.predict`."""
        outputs = super().predict(prepared_inputs, adapters, bank, cache)
        for prepared in prepared_inputs:
            if isinstance(prepared, PreparedSound):
                lengths = torch.tensor([prepared.read_s, prepared.length_s], dtype=torch.float64)
                cache.put(FEATURES, _lengths_key(prepared.digest), lengths)
        return outputs

    def _output(
        self,
        prepared: PreparedInput,
        adapter: str | None,
        bank: BatchAdapters,
        parameters: HeadParameters | None = None,
    ) -> Contract:
        output = super()._output(prepared, adapter, bank, parameters)
        if isinstance(output, SegmentScores) and isinstance(prepared, PreparedSound):
            return output.within(prepared.read_s, prepared.length_s)
        return output


def _is_about_segments(question: Input) -> bool:
    return isinstance(question, SegmentsInput | SegmentFeaturesInput)


def _window_digest(sound_digest: str, number: int) -> str:
    return f"{sound_digest} window {number}"


def _lengths_key(sound_digest: str) -> tuple[Any, ...]:
    return "lengths of a sound", sound_digest
