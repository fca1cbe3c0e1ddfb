"""What an encoder needs to find segments: each window of a recording is a content with features of its own.

How windows lie is in `lorabel.families.segments.windows`, how their probabilities become segments in
`lorabel.families.segments.found_segments`.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from lorabel.contracts import BatchAdapters, Contract, Input, Modality
from lorabel.errors import UnreadableError
from lorabel.families.base import DigestOf, Fetch
from lorabel.families.cache import FEATURES, FeatureCache
from lorabel.families.encoders.explaining import ExplainingEncoder
from lorabel.families.encoders.heads.base import HeadParameters
from lorabel.families.encoders.prepared_input import PreparedContent, PreparedInput, content_digest
from lorabel.families.segments.windows import count_windows
from lorabel.feature_contracts import SegmentFeaturesInput
from lorabel.media.fetching import digest
from lorabel.time_contracts import SegmentScores, SegmentsInput, SpokenPart


@dataclass(frozen=True)
class WindowedRecording:
    """The windows of a sound, or frames of a video, decoded.

    Args:
        windows: what `encode` reads, one for each window; they may share memory.
        read_s: how much of the recording was read, from its beginning, in seconds.
        length_s: of the whole recording, in seconds.
    """

    windows: Sequence[Tensor]
    read_s: float
    length_s: float


@dataclass(frozen=True)
class PreparedRecording(PreparedInput):
    """A question about segments of a recording. `contents` are the windows.

    Args:
        digest: of the file.
        read_s: see `WindowedRecording`.
        length_s: see `WindowedRecording`.
    """

    digest: str = ""
    read_s: float = 0.0
    length_s: float = 0.0


class SegmentingEncoder(ExplainingEncoder):
    """An encoder that also finds segments in recordings.

    Attributes:
        window_modality: what `encode` takes a window for.
    """

    window_modality: ClassVar[Modality]

    @abstractmethod
    def read_windows(self, file: bytes, step_s: float) -> WindowedRecording:
        """Decode a recording, and cut it into windows.

        Args:
            step_s: seconds from the middle of a window to the middle of the next.

        Raises:
            UnreadableError: the file is broken, of an unknown format, or has no samples or frames; this is
                permanent.
        """

    def find_speech(self, file: bytes) -> Sequence[SpokenPart]:
        """Return the parts of a recording in which somebody speaks.

        Raises:
            UnreadableError: as `read_windows`; also if this family finds none in such recordings.
        """
        raise UnreadableError(f"{self.name} finds no speech", is_permanent=True)

    def prepare(self, question: Input, fetch: Fetch) -> PreparedInput:
        """Read and decode the contents of a question; see `Family.prepare`."""
        if not isinstance(question, SegmentsInput | SegmentFeaturesInput):
            return super().prepare(question, fetch)
        media = question.contents[0].media
        if media is None:
            raise UnreadableError("the recording has no address", is_permanent=True)
        file = fetch(media)
        read, file_digest = self.read_windows(file, question.step_s), digest(file)
        if _is_of_speech(question):
            question = question.model_copy(update={"spoken": tuple(self.find_speech(file))})
        contents = (
            PreparedContent(
                self.window_modality,
                data,
                digest=_window_digest(file_digest, number * question.step_s),
                is_part=True,
            )
            for number, data in enumerate(read.windows)
        )
        return PreparedRecording(question, tuple(contents), None, file_digest, read.read_s, read.length_s)

    def recall_contents(
        self, question: Input, digest_of: DigestOf, adapter: str | None, bank: BatchAdapters, cache: FeatureCache
    ) -> PreparedInput | None:
        """Build a `PreparedInput` from cached features; see `ContentEncoder.recall_contents`."""
        if not isinstance(question, SegmentsInput | SegmentFeaturesInput):
            return super().recall_contents(question, digest_of, adapter, bank, cache)
        file_digest = content_digest(question.contents[0], digest_of)
        step_s = question.step_s
        lengths = None if file_digest is None else cache.get(FEATURES, _lengths_key(file_digest, step_s))
        if file_digest is None or lengths is None:
            return None
        read_s, length_s = lengths.tolist()
        if _is_of_speech(question):
            spoken = cache.get(FEATURES, _spoken_key(file_digest))
            if spoken is None:
                return None
            question = question.model_copy(update={"spoken": tuple(map(tuple, spoken.tolist()))})
        contents = []
        for number in range(count_windows(read_s, step_s)):
            window_digest = _window_digest(file_digest, number * step_s)
            key = self._feature_key(self.window_modality, window_digest, adapter, bank)
            features, frozen = cache.get(FEATURES, key), None
            if key.adapter is not None:
                frozen = cache.get(FEATURES, key._replace(adapter=None))
            if features is None:
                return None
            contents.append(
                PreparedContent(self.window_modality, None, features[None], window_digest, frozen, is_part=True)
            )
        return PreparedRecording(question, tuple(contents), None, file_digest, read_s, length_s)

    def batch_rows(self, prepared_input: PreparedInput) -> int:
        """Return the number of windows that must be encoded; 1 for other questions. See `Family.batch_rows`."""
        if not isinstance(prepared_input, PreparedRecording):
            return super().batch_rows(prepared_input)
        return max(1, sum(content.features is None for content in prepared_input.contents))

    def predict(
        self,
        prepared_inputs: Sequence[PreparedInput],
        adapters: Sequence[str | None],
        bank: BatchAdapters,
        cache: FeatureCache,
    ) -> Sequence[Contract]:
        """Compute one output per input, and keep how long the recordings are; see `Family.predict`."""
        outputs = super().predict(prepared_inputs, adapters, bank, cache)
        for prepared in prepared_inputs:
            question = prepared.question
            if not isinstance(question, SegmentsInput | SegmentFeaturesInput):
                continue
            if isinstance(prepared, PreparedRecording):
                lengths = torch.tensor([prepared.read_s, prepared.length_s], dtype=torch.float64)
                cache.put(FEATURES, _lengths_key(prepared.digest, question.step_s), lengths)
                if isinstance(question, SegmentsInput) and question.spoken is not None:
                    spoken = torch.tensor(question.spoken, dtype=torch.float64)
                    cache.put(FEATURES, _spoken_key(prepared.digest), spoken)
        return outputs

    def _output(
        self,
        prepared: PreparedInput,
        adapter: str | None,
        bank: BatchAdapters,
        parameters: HeadParameters | None = None,
    ) -> Contract:
        output = super()._output(prepared, adapter, bank, parameters)
        if isinstance(output, SegmentScores) and isinstance(prepared, PreparedRecording):
            return output.within(prepared.read_s, prepared.length_s)
        return output


def _window_digest(file_digest: str, moment_s: float) -> str:
    return f"{file_digest} at {moment_s:.6f} s"


def _is_of_speech(question: Input) -> bool:
    return isinstance(question, SegmentsInput) and question.is_of_speech


def _spoken_key(file_digest: str) -> tuple[Any, ...]:
    return "speech in a recording", file_digest


def _lengths_key(file_digest: str, step_s: float) -> tuple[Any, ...]:
    return "lengths of a recording", file_digest, step_s
