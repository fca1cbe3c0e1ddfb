"""Segments of series, from statistics of windows of the series and the fitted head of a project.

There are no weights: what the series does in and around each window is computed by NumPy, see
`lorabel.families.series`. Before a head was fitted nothing is found. A PatchTST of transformers that trained
itself on the project's series was tried in place of the statistics and beside them, and was not better (decision
41).
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import nn

from lorabel.contracts import BatchAdapters, Contract, Input, Modality
from lorabel.errors import SettingsError, UnreadableError
from lorabel.families.base import NO_BATCH_ADAPTERS, DigestOf, Family, Fetch
from lorabel.families.cache import FEATURES, FeatureCache
from lorabel.families.encoders.heads.fit_series import INSTANT
from lorabel.families.encoders.heads.linear_head import LinearHead
from lorabel.families.encoders.prepared_input import content_digest
from lorabel.families.series.cells import Cells, cells_of
from lorabel.families.series.found_series import found_series
from lorabel.families.series.windows import Features as WindowFeatures
from lorabel.families.series.windows import feature_count, learned_windows, window_features, window_shares
from lorabel.feature_contracts import Features, FeaturesInput
from lorabel.media.decode_memory import decode_memory
from lorabel.media.fetching import digest
from lorabel.media.series import read_series
from lorabel.series_contracts import SeriesFeaturesInput, SeriesInput, SeriesScores
from lorabel.settings import Settings

STATISTICS = "statistics-1"
# The logit of a label of which nothing was learned.
NEVER = -20.0
# Bytes that reading a file takes for each byte of it, beside the file: measured on series of a million points.
MEMORY_OF_A_BYTE = 6


@dataclass(frozen=True)
class SeriesWindows:
    """What is kept of a series.

    Args:
        cells: of which only the times and the step are used.
        features: (windows, dim).
    """

    cells: Cells
    features: WindowFeatures

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return self.cells.nbytes + self.features.nbytes


@dataclass(frozen=True)
class PreparedSeries:
    """A question about a series that was read.

    Args:
        digest: of the series, and of how it is read.
        fitted_head: says when each label fits.
    """

    question: SeriesInput | SeriesFeaturesInput
    digest: str
    windows: SeriesWindows
    fitted_head: LinearHead | None = None


@dataclass(frozen=True)
class SeriesEncoder(Family):
    """Segments of series, by statistics of windows.

    Attributes:
        module: has no layers.
    """

    name: ClassVar[str] = "series_encoder"
    inputs: ClassVar[tuple[type[Input], ...]] = (SeriesInput, SeriesFeaturesInput)
    modalities: ClassVar[frozenset[Modality]] = frozenset({Modality.SERIES})
    default_source: ClassVar[str] = STATISTICS
    has_lora: ClassVar[bool] = False

    source: str
    module: nn.Module
    device: torch.device
    dtype: torch.dtype
    settings: Settings

    @classmethod
    def load(cls, source: str, device: torch.device, dtype: torch.dtype, settings: Settings) -> Self:
        """Return the family; there is nothing to load. See `Family.load`."""
        if source != STATISTICS:
            raise SettingsError(f"MODEL_SERIES_ENCODER={source!r} cannot be loaded: expected {STATISTICS!r}")
        return cls(source, nn.Module(), device, dtype, settings)

    @classmethod
    def is_local(cls, source: str) -> bool:
        """Return True: there are no weights."""
        return True

    @classmethod
    def hub_id(cls, source: str) -> str:
        """Raise: nothing is loaded from a model hub."""
        raise SettingsError(f"{cls.name} needs no model hub: it has no weights")

    @classmethod
    def tiny(cls, folder: Path) -> str:
        """Return the only source; see `Family.tiny`."""
        return STATISTICS

    def prepare(self, question: SeriesInput | SeriesFeaturesInput, fetch: Fetch) -> PreparedSeries:
        """Read the series and compute the features of its windows; see `Family.prepare`.

        Raises:
            UnreadableError: also if segments are annotated, and all of them outside the series.
        """
        content = question.contents[0]
        if content.series_format is None:
            raise UnreadableError("nobody says which columns of the series are read", is_permanent=True)
        data = content.text or "" if content.media is None else fetch(content.media)
        with decode_memory(self.settings.media_decode_mb).reserve(MEMORY_OF_A_BYTE * len(data)):
            cells = cells_of(read_series(data, content.series_format, self.settings.series_max_points))
        series_digest = content_digest(content, lambda _: digest(data if isinstance(data, bytes) else b""))
        features = window_features(cells)
        only_times = replace(cells, mean=_NOTHING, least=_NOTHING, most=_NOTHING, missing=_NOTHING.astype(bool))
        return _prepared(question, series_digest or "", SeriesWindows(only_times, features))

    def recall(
        self,
        question: SeriesInput | SeriesFeaturesInput,
        digest_of: DigestOf,
        adapter: str | None,
        bank: BatchAdapters,
        cache: FeatureCache,
    ) -> PreparedSeries | None:
        """Take the features of the windows from the cache; see `Family.recall`."""
        series_digest = content_digest(question.contents[0], digest_of)
        windows = None if series_digest is None else cache.get(FEATURES, series_digest)
        if series_digest is None or windows is None:
            return None
        return _prepared(question, series_digest, windows)

    @property
    def head_dim(self) -> int:
        """Return the number of features of a series with one channel; `with_head` knows how many it has."""
        return feature_count(1)

    def with_head(
        self,
        prepared_input: PreparedSeries,
        head: LinearHead | None,
        adapter: str | None = None,
        bank: BatchAdapters = NO_BATCH_ADAPTERS,
    ) -> PreparedSeries:
        """Return the input as one that is answered with a fitted head; see `Family.with_head`."""
        if head is None:
            return prepared_input
        expected = prepared_input.windows.features.shape[1], len(prepared_input.question.labels)
        if (head.kind, head.space, head.weights.shape) != (SeriesInput.kind, self.space, expected):
            raise UnreadableError(
                f"the fitted head is of kind {head.kind!r}, space {head.space!r} and shape {head.weights.shape}, "
                f"and the question needs {SeriesInput.kind!r}, {self.space!r} and {expected}; fit it again",
                is_permanent=False,
            )
        return replace(prepared_input, fitted_head=head)

    def for_features(self, prepared_input: PreparedSeries, target: object) -> PreparedSeries:
        """Return the input as one that is answered with its features; see `Family.for_features`."""
        question: Any = FeaturesInput.of(prepared_input.question, target)
        return replace(prepared_input, question=question)

    def answer(
        self, prepared_input: PreparedSeries, adapter: str | None, bank: BatchAdapters, cache: FeatureCache
    ) -> Contract:
        """Answer; see `Family.answer`."""
        return self._output(prepared_input)

    def predict(
        self,
        prepared_inputs: Sequence[PreparedSeries],
        adapters: Sequence[str | None],
        bank: BatchAdapters,
        cache: FeatureCache,
    ) -> Sequence[Contract]:
        """Answer, and keep the features; see `Family.predict`."""
        for prepared in prepared_inputs:
            cache.put(FEATURES, prepared.digest, prepared.windows)
        return [self._output(prepared) for prepared in prepared_inputs]

    def _output(self, prepared: PreparedSeries) -> Contract:
        windows, question, head = prepared.windows, prepared.question, prepared.fitted_head
        if isinstance(question, SeriesFeaturesInput):
            return self._features(windows, question)
        if head is None:
            return SeriesScores(step=windows.cells.step)
        labels = len(question.labels)
        logits = head.logits(windows.features.astype(np.float32), np.zeros((1, labels), np.float32))
        logits[:, ~head.is_learned] = NEVER
        is_instant = [slot == INSTANT for slot in head.slots]
        return found_series(logits, windows.cells, is_instant, scales=head.score_scales)

    def _features(self, windows: SeriesWindows, question: SeriesFeaturesInput) -> Features:
        shares = window_shares(windows.cells, question.segments, len(question.labels))
        learned = learned_windows(shares)
        features = windows.features[learned].astype("<f2")
        return Features(
            space=self.space,
            dim=features.shape[1],
            float16=base64.b64encode(features.tobytes()).decode(),
            logits=tuple(shares[learned].ravel().tolist()),
        )


def _prepared(
    question: SeriesInput | SeriesFeaturesInput, series_digest: str, windows: SeriesWindows
) -> PreparedSeries:
    """The question about the series that was read.

    Raises:
        UnreadableError: for good; segments are annotated, and all of them outside the series.
    """
    segments = question.segments if isinstance(question, SeriesFeaturesInput) else ()
    if segments and not any(windows.cells.has_any_of(start, end) for start, end, _ in segments):
        raise UnreadableError(
            f"all {len(segments)} annotated segments lie outside the series, as if its file had been replaced",
            is_permanent=True,
        )
    return PreparedSeries(question, series_digest, windows)


_NOTHING = np.zeros((0, 0))
