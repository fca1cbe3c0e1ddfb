"""Fits the head of a control tag from all its annotated tasks: one function for every kind of question.

The head is a function of the set of examples. Their order changes nothing, not a bit, so a deleted annotation is
as if it had never been.
"""

import base64
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Self

import numpy as np

from lorabel.contracts import Input, LabelsInput, LabelTarget, RankingInput, RatingInput, SpansInput
from lorabel.families.detection.fit_boxes import OF_WEIGHTS_IN_FRAMES, AnnotatedPlaces, fit_boxes
from lorabel.families.encoders.heads.averaging import mean_with_base
from lorabel.families.encoders.heads.fit_parts import fit_parts
from lorabel.families.encoders.heads.fit_ranking import RankedItems, fit_best_ranking
from lorabel.families.encoders.heads.fit_rating import RatingFit
from lorabel.families.encoders.heads.fit_relations import RelatedTask, fit_relations
from lorabel.families.encoders.heads.fit_segments import AnnotatedRecording, fit_segments
from lorabel.families.encoders.heads.fit_series import AnnotatedSeries, fit_series
from lorabel.families.encoders.heads.fit_spans import fit_spans
from lorabel.families.encoders.heads.fusion_choice import HeadFit, TaskContents, fit_fused
from lorabel.families.encoders.heads.head_features import PRODUCTS
from lorabel.families.encoders.heads.item_features import item_features, query_similarities
from lorabel.families.encoders.heads.label_fit import LabelFit
from lorabel.families.encoders.heads.linear_head import MEAN, Array, LinearHead
from lorabel.families.encoders.heads.parts import is_of_parts, with_parts
from lorabel.families.encoders.heads.rating_scale import to_position
from lorabel.families.segments.windows import window_truth
from lorabel.families.spans.word_targets import word_targets
from lorabel.families.text_lines.fit_lines import AnnotatedPicture, fit_lines
from lorabel.feature_contracts import Features, is_with_adapter
from lorabel.labeling.words import find_words
from lorabel.mask_contracts import LabelledMasksInput
from lorabel.region_contracts import EachInput
from lorabel.relation_contracts import PictureRelationsInput, RelationsInput
from lorabel.series_contracts import SeriesInput
from lorabel.space_contracts import BoxesInput, TextLine, TextLinesInput
from lorabel.time_contracts import SegmentsInput
from lorabel.track_contracts import FrameBoxesInput, TracksInput


@dataclass(frozen=True)
class Example:
    """An annotated task.

    Args:
        question: what the model is asked about the task: the question itself, not the one for its features.
        features: (contents, dim) float32 of length 1.
        logits: (labels,) float32: the base model's; empty without labels. For a question about each content
            (contents * labels,).
        lines: of a picture with lines of text, as the base model reads them.
        target: of `lorabel.contracts`: what the annotators answered.
        group: tasks with the same group are left out together, for example near duplicates. None: only tasks with
            equal features are.
    """

    question: Input
    features: Array
    logits: Array
    target: Any
    group: Hashable = None
    lines: tuple[TextLine, ...] = ()

    @classmethod
    def of(cls, question: Input, features: Features, target: Any, group: Hashable = None) -> Self:
        """Return an example with the features that a family, or several about a video, have answered."""
        half = np.frombuffer(base64.b64decode(features.float16), "<f2").reshape(-1, max(1, features.dim))
        logits = np.array(features.logits, np.float32)
        rows: Array = half.astype(np.float32)
        if is_of_parts(features.space):
            question, rows = with_parts(question, rows)
        return cls(question, rows, logits, target, group, features.lines)

    @property
    def each(self) -> "Sequence[Example]":
        """The examples of one content each, for a question about each content; else the example itself.

        Those of one task are left out together, since the regions of a picture have much in common. The head of
        masks is one of the boxes around them, that of tracks one of the boxes in the frames that are learned from.
        """
        if isinstance(self.question, TracksInput):
            tracks = self.question
            question: BoxesInput = FrameBoxesInput(
                contents=tracks.contents, labels=tracks.labels, frames_per_s=tracks.frames_per_s
            )
            return [replace(self, question=question, target=self.target.learned_boxes)]
        if isinstance(self.question, LabelledMasksInput):
            question = BoxesInput(contents=self.question.contents, labels=self.question.labels)
            return [replace(self, question=question, target=self.target.around())]
        if not isinstance(self.question, EachInput):
            return [self]
        logits = self.logits.reshape(len(self.features), -1 if len(self.logits) else 0)
        parts = zip(self.question.each, self.features, logits, self.target.each, strict=True)
        return [
            Example(question, features[None], row, target, _group(self))
            for question, features, row, target in parts
        ]


def fit_head(examples: Sequence[Example], space: str) -> LinearHead | None:
    """Fit the head that answers questions like those of the examples.

    Args:
        examples: the annotated tasks of one control tag, with features of one space and the labels of today's
            label config.
        space: `Features.space` of their features.

    Returns:
        The head; None if the annotations say nothing yet, for example if all of them are of one class. The base
        model then answers as if nobody had annotated.

    Raises:
        TypeError: there are no heads for such questions.
    """
    if not examples:
        return None
    kind = ASKED_OF_DETECTOR.get(type(examples[0].question), type(examples[0].question)).kind
    examples = [item_example for example in examples for item_example in example.each]
    question = examples[0].question
    if type(question) not in FITS:
        raise TypeError(f"no heads are fitted for questions of kind {kind!r}")
    fit = _fit_parts if is_of_parts(space) else FITS[type(question)]
    head = fit(sorted(examples, key=_sort_key))
    if is_with_adapter(space) and not is_of_parts(space):
        bases = map(_with_base_features, examples)
        head = mean_with_base(head, len(examples), lambda: fit(sorted(bases, key=_sort_key)))
    return None if head is None else replace(head, kind=kind, space=space)


def _with_base_features(example: Example) -> Example:
    """The example with the first half of its features: the base model's."""
    return replace(example, features=example.features[:, : example.features.shape[1] // 2])


def _sort_key(example: Example) -> tuple[bytes, bytes, str, str]:
    described = repr((example.target, example.lines)) if example.lines else repr(example.target)
    return example.features.tobytes(), example.logits.tobytes(), described, repr(example.group)


def _group(example: Example) -> Hashable:
    return example.features.tobytes() if example.group is None else example.group


def _contents(examples: Sequence[Example]) -> list[TaskContents]:
    return [
        TaskContents(
            tuple(content.modality for content in example.question.contents), example.features, _group(example)
        )
        for example in examples
    ]


def _fit_parts(examples: Sequence[Example]) -> LinearHead | None:
    is_rating = isinstance(examples[0].question, RatingInput)
    return fit_parts(_contents(examples), _rating_fit(examples) if is_rating else _label_fit(examples))


def _fit_labels(examples: Sequence[Example]) -> LinearHead | None:
    return fit_fused(_contents(examples), _label_fit(examples))


def _label_fit(examples: Sequence[Example]) -> HeadFit:
    question = examples[0].question
    assert isinstance(question, LabelsInput)
    zero_shot = np.stack([example.logits for example in examples])
    shares = np.stack([label_shares(example.target, len(question.labels)) for example in examples])
    groups = [_group(example) for example in examples]
    return LabelFit(zero_shot, shares, question.parents, question.is_multiple, groups)


def label_shares(target: LabelTarget, labels: int) -> Array:
    """(labels,): the share of annotators who chose each label."""
    if target.shares is not None:
        return np.array(target.shares, np.float32)
    shares = np.zeros(labels, np.float32)
    shares[list(target.indices)] = 1.0
    return shares


def _fit_rating(examples: Sequence[Example]) -> LinearHead | None:
    return fit_fused(_contents(examples), _rating_fit(examples))


def _rating_fit(examples: Sequence[Example]) -> HeadFit:
    positions = [
        to_position(example.question, example.target.value)
        for example in examples
        if isinstance(example.question, RatingInput)
    ]
    return RatingFit(np.array(positions), [_group(example) for example in examples])


def _fit_ranking(examples: Sequence[Example]) -> LinearHead | None:
    asked = [(example.question, example) for example in examples if isinstance(example.question, RankingInput)]
    has_query = all(question.has_query for question, _ in asked)
    return fit_best_ranking(
        {
            feature_map: [
                RankedItems(
                    item_features(feature_map, question, example.features),
                    query_similarities(question, example.features)[:, 0],
                    example.target,
                    _group(example),
                )
                for question, example in asked
            ]
            for feature_map in ((MEAN, PRODUCTS) if has_query else (MEAN,))
        }
    )


def _fit_spans(examples: Sequence[Example]) -> LinearHead | None:
    features, zero_shot, targets, texts = [], [], [], []
    for example in examples:
        question = example.question
        assert isinstance(question, SpansInput)
        words, columns = len(example.features), 2 * len(question.labels)
        logits = example.logits if len(example.logits) else np.zeros(words * columns)
        features.append(example.features)
        zero_shot.append(np.concatenate([np.zeros((words, 1)), logits.reshape(words, columns)], axis=1))
        text_words = find_words(question.contents[0].text or "")
        targets.append(word_targets(text_words, example.target, len(question.labels)))
        texts += [_group(example)] * words
    return fit_spans(np.concatenate(features), np.concatenate(zero_shot), np.concatenate(targets), texts)


def _fit_segments(examples: Sequence[Example]) -> LinearHead | None:
    return fit_segments([_recording(example) for example in examples])


def _recording(example: Example) -> AnnotatedRecording:
    question = example.question
    assert isinstance(question, SegmentsInput)
    zero_shot = example.logits.reshape(-1, len(question.labels))
    truth = window_truth(question, example.target, len(zero_shot))
    segments, step_s = example.target.segments, question.step_s
    return AnnotatedRecording(example.features, zero_shot, truth, _group(example), segments, step_s)


def _fit_series(examples: Sequence[Example]) -> LinearHead | None:
    """Of series, the logits of an example are what is right about its windows; see `Features`."""
    labels = len(examples[0].question.labels)  # type: ignore[attr-defined]
    return fit_series(
        [
            AnnotatedSeries(example.features, example.logits.reshape(-1, labels), example.target, _group(example))
            for example in examples
        ]
    )


def _fit_text_lines(examples: Sequence[Example]) -> LinearHead | None:
    question = examples[0].question
    assert isinstance(question, TextLinesInput)
    return fit_lines(
        [AnnotatedPicture(example.lines, example.target) for example in examples], len(question.labels)
    )


def _fit_boxes(examples: Sequence[Example]) -> LinearHead | None:
    return fit_boxes(_places(examples))


def _fit_boxes_in_frames(examples: Sequence[Example]) -> LinearHead | None:
    return fit_boxes(_places(examples), OF_WEIGHTS_IN_FRAMES)


def _places(examples: Sequence[Example]) -> list[AnnotatedPlaces]:
    return [
        AnnotatedPlaces(
            example.features,
            example.logits.reshape(len(example.features), len(example.question.labels)),
            example.target,
        )
        for example in examples
        if isinstance(example.question, BoxesInput)
    ]


def _fit_relations(examples: Sequence[Example]) -> LinearHead | None:
    return fit_relations(
        [
            RelatedTask(example.question, example.features, example.target, _group(example))
            for example in examples
            if isinstance(example.question, RelationsInput)
        ]
    )


# What the detector is asked where it answers a part of the question.
ASKED_OF_DETECTOR: Mapping[type[Input], type[Input]] = MappingProxyType(
    {LabelledMasksInput: BoxesInput, TracksInput: FrameBoxesInput}
)

FITS: Mapping[type[Input], Callable[[Sequence[Example]], LinearHead | None]] = MappingProxyType(
    {
        LabelsInput: _fit_labels,
        RatingInput: _fit_rating,
        RankingInput: _fit_ranking,
        SpansInput: _fit_spans,
        TextLinesInput: _fit_text_lines,
        BoxesInput: _fit_boxes,
        FrameBoxesInput: _fit_boxes_in_frames,
        SegmentsInput: _fit_segments,
        SeriesInput: _fit_series,
        RelationsInput: _fit_relations,
        PictureRelationsInput: _fit_relations,
    }
)
