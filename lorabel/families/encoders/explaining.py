"""Explains answers of encoders: which words, which places of a picture and which contents carried them.

The model is asked again without a part, and with the part alone. A part's weight is the mean of what the score
loses when the part is taken from everything, and what it gains when the part is added to nothing: the first and
the last term of its Shapley value, which for two parts is all of it. Taking parts away is how occlusion
(https://arxiv.org/abs/1311.2901) explains pictures, and erasure (https://arxiv.org/abs/1612.08220) texts. It needs
no gradients, so it explains whatever answers: adapters, fitted heads of all kinds, and weights of 8 bits.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from lorabel.contracts import BatchAdapters, Contract, Estimate, Input, LabelScores, LabelsInput, Modality
from lorabel.errors import UnreadableError
from lorabel.explanation_contracts import ContentWeights, Explanation, ExplanationInput, Fit, WordWeight
from lorabel.families.base import DigestOf, Fetch
from lorabel.families.cache import FeatureCache
from lorabel.families.encoders.encoder import Encoder
from lorabel.families.encoders.prepared_input import PreparedContent, PreparedInput, batches
from lorabel.labeling.taxonomy import labels_below, likeliest_path
from lorabel.labeling.words import find_words
from lorabel.media.image import shown_size

# A picture has so many cells in each direction. Two by two of them are taken away at once.
CELLS = 7
WINDOW = 2
# Of a longer text, words that stand together are one part.
MOST_WORDS = 96
# So many parts are taken away at once: for each, two contents are in memory.
PARTS_AT_ONCE = 16
# Probabilities nearer to 0 and 1 are not told apart: float32 does not.
SMALLEST = 1e-6


@dataclass(frozen=True)
class ExplainedInput(PreparedInput):
    """A question whose answer is explained.

    Args:
        asked: for which label, and for which piece.
        sizes: for each content the width and height of the picture in pixels; None if it is none.
    """

    asked: ExplanationInput | None = None
    sizes: tuple[tuple[int, int] | None, ...] = ()


@dataclass(frozen=True)
class _Part:
    """A part of a content, or all of it.

    Args:
        content: index of the content.
        place: word (start, end), window (row, column) of cells, or None for all of it.
    """

    content: int
    place: tuple[int, int] | None


class ExplainingEncoder(Encoder):
    """An encoder that also explains its answers about labels and ratings."""

    inputs: ClassVar[tuple[type[Input], ...]] = (*Encoder.inputs, ExplanationInput)

    @property
    def fit(self) -> Fit:
        """How a picture is fitted into what the model reads."""
        return Fit.STRETCHED

    def prepare(self, question: Input, fetch: Fetch) -> PreparedInput:
        """Read and decode the contents of a question; see `Family.prepare`."""
        if not isinstance(question, ExplanationInput):
            return super().prepare(question, fetch)
        prepared = super().prepare(question.explained, fetch)
        sizes = tuple(
            shown_size(fetch(content.media)) if content.modality == Modality.IMAGE and content.media else None
            for content in question.contents
        )
        return ExplainedInput(prepared.question, prepared.contents, None, question, sizes)

    def recall(
        self, question: Input, digest_of: DigestOf, adapter: str | None, bank: BatchAdapters, cache: FeatureCache
    ) -> PreparedInput | None:
        """Build a `PreparedInput` from the cache; never for an explanation, which needs the contents."""
        if isinstance(question, ExplanationInput):
            return None
        return super().recall(question, digest_of, adapter, bank, cache)

    def answer(
        self, prepared_input: PreparedInput, adapter: str | None, bank: BatchAdapters, cache: FeatureCache
    ) -> Contract | None:
        """Compute the output from the cache; never an explanation."""
        if isinstance(prepared_input, ExplainedInput):
            return None
        return super().answer(prepared_input, adapter, bank, cache)

    def batch_rows(self, prepared_input: PreparedInput) -> int:
        """Return how often the model is asked for an explanation; see `Family.batch_rows`."""
        if not isinstance(prepared_input, ExplainedInput):
            return super().batch_rows(prepared_input)
        return 1 + 2 * len(_parts_of_piece(prepared_input))

    def predict(
        self,
        prepared_inputs: Sequence[PreparedInput],
        adapters: Sequence[str | None],
        bank: BatchAdapters,
        cache: FeatureCache,
    ) -> Sequence[Contract]:
        """Compute one output per input; see `Family.predict`."""
        asked = {index for index, each in enumerate(prepared_inputs) if isinstance(each, ExplainedInput)}
        if not asked:
            return super().predict(prepared_inputs, adapters, bank, cache)
        others = [index for index in range(len(prepared_inputs)) if index not in asked]
        plain = super().predict([prepared_inputs[i] for i in others], [adapters[i] for i in others], bank, cache)
        outputs = dict(zip(others, plain, strict=True))
        for index in sorted(asked):
            outputs[index] = self._explain(prepared_inputs[index], adapters[index], bank, cache)
        return [outputs[index] for index in range(len(prepared_inputs))]

    def emptied(self, modality: Modality, data: Any) -> Any:
        """Return data of the same size that say nothing: an empty text, a picture or video of one colour.

        Overridden where other modalities are read.

        Args:
            data: a tensor that `read` returned, or a text.
        """
        return "" if modality == Modality.TEXT else _mean_colour(data)

    @torch.inference_mode()
    def _explain(
        self, explained: Any, adapter: str | None, bank: BatchAdapters, cache: FeatureCache
    ) -> Explanation:
        question, head = explained.question, explained.fitted_head

        def with_features(contents: tuple[PreparedContent, ...]) -> tuple[PreparedContent, ...]:
            inputs = self.add_features([PreparedInput(question, contents, head)], [adapter], bank, cache)
            return self.add_frozen(inputs, [adapter], bank, cache)[0].contents

        def ask(variants: Sequence[tuple[PreparedContent, ...]]) -> Sequence[Contract]:
            inputs = [PreparedInput(question, variant, head) for variant in variants]
            return Encoder.predict(self, inputs, [adapter] * len(inputs), bank, cache)

        contents = with_features(explained.contents)
        (full,) = ask([contents])
        try:
            label = _label(question, explained.asked, full)
            score, full_odds = _score(full, label), _log_odds(full, label)
        except UnreadableError as error:
            return Explanation(reason=str(error))
        nothing = with_features(
            tuple(_with_data(content, self.emptied(content.modality, content.data)) for content in contents)
        )
        weights: dict[_Part, float] = {}
        for parts in batches(_parts_of_piece(explained), PARTS_AT_ONCE):
            without, beside, alone = zip(*(_variants(contents, nothing, part) for part in parts), strict=True)
            # Apart, since the texts of a batch are padded to the longest.
            losses = [full_odds - _log_odds(output, label) for output in ask(without)]
            befores, afters = (
                [_log_odds(output, label) for output in outputs]
                for outputs in batches(ask([*beside, *alone]), len(parts))
            )
            gains = [after - before for before, after in zip(befores, afters, strict=True)]
            weights |= {part: (loss + gain) / 2 for part, loss, gain in zip(parts, losses, gains, strict=True)}
        return Explanation(
            label=label,
            score=score,
            contents=tuple(
                self._content_weights(number, content, weights, explained.sizes[number])
                for number, content in enumerate(contents)
            ),
        )

    def _content_weights(
        self, number: int, content: PreparedContent, weights: dict[_Part, float], size: tuple[int, int] | None
    ) -> ContentWeights:
        whole = weights.get(_Part(number, None), 0.0)
        places = {part.place: weight for part, weight in weights.items() if part.content == number}
        if content.modality == Modality.TEXT:
            words = tuple(
                WordWeight(start=start, end=end, weight=places.get((start, end), 0.0))
                for start, end in _words(content.data)
            )
            return ContentWeights(weight=whole, text=content.data, words=words)
        if content.modality == Modality.IMAGE:
            return ContentWeights(weight=whole, heat=_heat(places), fit=self.fit, size=size)
        return ContentWeights(weight=whole)


def _parts_of_piece(explained: ExplainedInput) -> list[_Part]:
    asked = explained.asked
    assert asked is not None
    parts = [part for number, _ in enumerate(explained.contents) for part in _parts(explained.contents, number)]
    return parts[asked.piece :: asked.pieces]


def _parts(contents: Sequence[PreparedContent], number: int) -> Iterator[_Part]:
    content = contents[number]
    if len(contents) > 1:
        yield _Part(number, None)
    if content.modality == Modality.TEXT:
        yield from (_Part(number, span) for span in _words(content.data))
    elif content.modality == Modality.IMAGE:
        first_cells = range(1 - WINDOW, CELLS)
        yield from (_Part(number, (row, column)) for row in first_cells for column in first_cells)


def _words(text: str) -> list[tuple[int, int]]:
    """(start, end) of each part of a text: a word, or of a long text several."""
    words = [(start, end) for start, end in find_words(text) if any(map(str.isalnum, text[start:end]))]
    count = math.ceil(len(words) / MOST_WORDS)
    groups = (words[first : first + count] for first in range(0, len(words), count or 1))
    return [(group[0][0], group[-1][1]) for group in groups]


def _variants(
    contents: tuple[PreparedContent, ...], nothing: tuple[PreparedContent, ...], part: _Part
) -> tuple[tuple[PreparedContent, ...], ...]:
    """The contents without a part, those that the part is added to, and these with the part."""
    number = part.content
    emptied = _changed(contents, number, nothing[number])
    if part.place is None:
        return emptied, nothing, _changed(nothing, number, contents[number])
    others, only = _divided(contents[number], part.place)
    return _changed(contents, number, others), emptied, _changed(contents, number, only)


def _divided(content: PreparedContent, place: tuple[int, int]) -> tuple[PreparedContent, PreparedContent]:
    """The content without a part, and the part alone."""
    if content.modality == Modality.TEXT:
        start, end = place
        return _with_data(content, content.data[:start] + content.data[end:]), _with_data(
            content, content.data[start:end]
        )
    pixels: Tensor = content.data
    height, width = pixels.shape[-2:]
    rows = slice(*(_edge(cell, height) for cell in (place[0], place[0] + WINDOW)))
    columns = slice(*(_edge(cell, width) for cell in (place[1], place[1] + WINDOW)))
    without, alone = pixels.clone(), _mean_colour(pixels)
    alone[..., rows, columns] = pixels[..., rows, columns]
    without[..., rows, columns] = _mean_colour(pixels)[..., rows, columns]
    return _with_data(content, without), _with_data(content, alone)


def _edge(cell: int, length: int) -> int:
    """The first pixel of a cell."""
    return round(min(max(cell, 0), CELLS) * length / CELLS)


def _mean_colour(pixels: Tensor) -> Tensor:
    mean = pixels.float().mean((-2, -1), keepdim=True)
    return mean.to(pixels.dtype).expand_as(pixels).clone()


def _with_data(content: PreparedContent, data: Any) -> PreparedContent:
    """A content of which nothing is kept in the cache."""
    return PreparedContent(content.modality, data)


def _changed(
    contents: tuple[PreparedContent, ...], number: int, content: PreparedContent
) -> tuple[PreparedContent, ...]:
    return (*contents[:number], content, *contents[number + 1 :])


def _heat(places: dict[tuple[int, int] | None, float]) -> tuple[tuple[float, ...], ...]:
    """Each cell gets its share of each window that covers it."""
    offsets = [(row, column) for row in range(WINDOW) for column in range(WINDOW)]
    return tuple(
        tuple(
            sum(places.get((row - down, column - right), 0.0) for down, right in offsets) / len(offsets) ** 2
            for column in range(CELLS)
        )
        for row in range(CELLS)
    )


def _label(question: Input, asked: ExplanationInput, output: Contract) -> int | None:
    """The label that is explained; of a taxonomy where the predicted path ends. None for a rating.

    Raises:
        UnreadableError: the question has no such label, or its tree no top.
    """
    if not isinstance(output, LabelScores) or not isinstance(question, LabelsInput):
        return None
    count, wanted = len(output.probabilities), asked.label
    if wanted is not None and not 0 <= wanted < count:
        raise UnreadableError(f"there is no label {wanted}, only {count}", is_permanent=True)
    if wanted is not None:
        return wanted
    if not question.parents:
        return output.probabilities.index(max(output.probabilities))
    below = labels_below(question.parents)
    path = likeliest_path(below, output.probabilities, has_leaves_only=asked.has_leaves_only)
    if not path:
        raise UnreadableError("no label is on the first level of the tree", is_permanent=True)
    return path[-1]


def _score(output: Contract, label: int | None) -> float:
    if isinstance(output, LabelScores) and label is not None:
        return output.probabilities[label]
    if isinstance(output, Estimate) and output.value is not None:
        return output.value
    raise UnreadableError("nothing is predicted yet, so there is nothing to explain", is_permanent=False)


def _log_odds(output: Contract, label: int | None) -> float:
    score = _score(output, label)
    if label is None:
        return score
    score = min(max(score, SMALLEST), 1 - SMALLEST)
    return math.log(score / (1 - score))
