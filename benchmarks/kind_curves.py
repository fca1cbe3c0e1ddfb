"""Learning curves of every kind of question: zero-shot, the head, and regressions on the same features.

Features are computed once for each data set. The figure is the metric that decides about promotion.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import cast

import numpy as np
import torch

from benchmarks import curve_baselines, kind_baselines
from benchmarks.calibration import calibration_error
from benchmarks.curve_report import (
    CROSS_VALIDATED,
    HEAD,
    MEAN,
    RIDGE_CROSS_VALIDATED,
    RIDGE_SCALED,
    SCALED,
    ZERO_SHOT,
    Point,
)
from benchmarks.kind_baselines import Learn
from benchmarks.kind_courses import CHOICE, MULTIPLE, RANKING, RATING, SEGMENTS, SPANS, TAXONOMY, KindCourse
from lorabel.contracts import Contract, Estimate, ItemScores, LabelScores, LabelsInput, RankingInput, SpansInput
from lorabel.contracts import SpanScores as Spans
from lorabel.evaluation.segment_metrics import right_segments
from lorabel.families.base import NoBatchAdapters
from lorabel.families.cache import FEATURES, TEXTS, FeatureCache
from lorabel.families.encoders.heads.fit import Example, fit_head
from lorabel.families.encoders.heads.head_answers import answer_with_head, head_word_logits
from lorabel.families.encoders.heads.item_features import query_similarities
from lorabel.families.encoders.heads.linear_head import LinearHead, probabilities
from lorabel.families.loading import family_for
from lorabel.families.spans.word_spans import span_scores
from lorabel.feature_contracts import Features, FeaturesInput
from lorabel.labeling.words import find_words
from lorabel.problems.base import Problem
from lorabel.problems.binding import bind
from lorabel.settings import Settings
from lorabel.time_contracts import SegmentScores, SegmentsInput
from tests.e2e.courses import LabeledTask
from workers.services import Services

BATCH = 64


def measure(course: KindCourse, counts: Sequence[int], seeds: int) -> Iterator[Point]:
    """Yield the points of each way to learn; the last number of annotations is all tasks if these are fewer."""
    with TemporaryDirectory() as folder:
        models = dict(course.models(Path(folder) / "model"))
        services = Services.open(Settings(data_dir=Path(folder), models=models, precision="float32"))
        try:
            (problem,) = (each for each in bind(course.label_config).bindings if each.from_name == course.tag)
            tasks, test = (_examples(services, problem, part) for part in (course.tasks, course.test))
        finally:
            services.close()
    reached = sorted({min(count, len(tasks)) for count in counts})
    for seed in range(seeds):
        yield _point(course, ZERO_SHOT, seed, 0, problem, test, [_answer(None, each) for each in test], 0.0)
        order = course.order(seed)
        for count in reached:
            learned = [tasks[index] for index in order[:count]]
            for way, learn in WAYS[course.kind].items():
                began = time.thread_time()
                answers = learn(learned, test)
                seconds = time.thread_time() - began
                yield _point(course, way, seed, count, problem, test, answers, seconds)


@torch.inference_mode()
def _examples(services: Services, problem: Problem, tasks: Sequence[LabeledTask]) -> list[Example]:
    questions = [problem.model_input(data) for data, _ in tasks]
    family = services.family(family_for(questions[0]))
    cache = FeatureCache({FEATURES: 10**9, TEXTS: 10**9})
    answers: list[Contract] = []
    for start in range(0, len(questions), BATCH):
        batch = questions[start : start + BATCH]
        asked = [family.prepare(FeaturesInput.of(question), services.fetcher.fetch) for question in batch]
        answers += family.predict(asked, [None] * len(batch), NoBatchAdapters(), cache)
    return [
        Example.of(question, cast(Features, answer), problem.target(result, data))
        for question, answer, (data, result) in zip(questions, answers, tasks, strict=True)
    ]


def _head(learned: Sequence[Example], unseen: Sequence[Example]) -> list[Contract]:
    head = fit_head(learned, "")
    return [_answer(head, example) for example in unseen]


def _answer(head: LinearHead | None, example: Example) -> Contract:
    """Answer with a head; without one as the base model does, which is silent on ratings and spans."""
    question = example.question
    if isinstance(question, SpansInput):
        return Spans(spans=()) if head is None else _spans(head, question, example)
    if isinstance(question, SegmentsInput):
        windows = example.logits.reshape(len(example.features), -1)
        chances = probabilities(head, example.features, windows, is_multiple=True)
        return kind_baselines.segments_of(example, chances, () if head is None else head.score_scales)
    if head is not None:
        return answer_with_head(head, question, example.features, example.logits)
    if isinstance(question, LabelsInput):
        logits = example.logits[None]
        answer = probabilities(None, example.features, logits, question.parents, question.is_multiple)
        return LabelScores(probabilities=tuple(answer[0].tolist()))
    if isinstance(question, RankingInput):
        similarities = query_similarities(question, example.features)[:, 0]
        return ItemScores(scores=tuple(similarities.tolist()) if question.has_query else ())
    return Estimate()


def _spans(head: LinearHead, question: SpansInput, example: Example) -> Contract:
    words = find_words(question.contents[0].text or "")
    silent = np.zeros((len(words), 2 * len(question.labels)), np.float32)
    logits = torch.from_numpy(head_word_logits(head, example.features, silent))
    return span_scores(logits.view(len(words), 2, len(question.labels)), words)


# Every other strength: multiple choice cross-validates each label by itself.
_cross_validated = partial(curve_baselines.cross_validated, strengths=curve_baselines.STRENGTHS[::2])
WAYS: Mapping[str, Mapping[str, Learn]] = MappingProxyType(
    {
        **{
            kind: {
                HEAD: _head,
                SCALED: partial(baseline, fit=curve_baselines.scaled),
                CROSS_VALIDATED: partial(baseline, fit=_cross_validated),
            }
            for kind, baseline in (
                (CHOICE, kind_baselines.choice),
                (TAXONOMY, kind_baselines.choice),
                (MULTIPLE, kind_baselines.multiple),
            )
        },
        RATING: {
            HEAD: _head,
            RIDGE_SCALED: kind_baselines.ridge_scaled,
            RIDGE_CROSS_VALIDATED: kind_baselines.ridge_cross_validated,
            MEAN: kind_baselines.mean,
        },
        RANKING: {
            HEAD: _head,
            SCALED: kind_baselines.ranking_scaled,
            CROSS_VALIDATED: kind_baselines.ranking_cross_validated,
        },
        SPANS: {
            HEAD: _head,
            SCALED: kind_baselines.spans_scaled,
            CROSS_VALIDATED: kind_baselines.spans_cross_validated,
        },
        SEGMENTS: {HEAD: _head, CROSS_VALIDATED: kind_baselines.segments_cross_validated},
    }
)


def _point(
    course: KindCourse,
    way: str,
    seed: int,
    count: int,
    problem: Problem,
    test: Sequence[Example],
    answers: Sequence[Contract],
    seconds: float,
) -> Point:
    metrics = problem.metrics([example.target for example in test], answers)
    figure, error = float(metrics.values[metrics.primary]), calibration_error_of(test, answers)
    boundary_error_ms = metrics.values.get("boundary_error_ms")
    return Point(course.name, way, seed, count, figure, error, seconds, course.kind, boundary_error_ms)


def calibration_error_of(test: Sequence[Example], answers: Sequence[Contract]) -> float | None:
    """The error of the labels' probabilities, or of the order of each pair; None for estimates and spans.

    Multiple choice: of each label by itself. Taxonomies: of the whole path, which is right or wrong. Segments: of
    each that was found.
    """
    claims: list[tuple[float, bool]] = []
    for example, answer in zip(test, answers, strict=True):
        question, target = example.question, example.target
        if isinstance(answer, LabelScores) and isinstance(question, LabelsInput):
            if question.is_multiple:
                fits = [(chance, label in target.indices) for label, chance in enumerate(answer.probabilities)]
                claims += [(max(chance, 1 - chance), (chance >= 0.5) == fit) for chance, fit in fits]
            else:
                claims.append(_best_path(answer, question, target.indices))
        elif isinstance(answer, ItemScores) and answer.scores:
            gaps = [answer.scores[better] - answer.scores[worse] for better, worse in target.pairs]
            claims += [(float(1 / (1 + np.exp(-min(abs(gap), 500)))), gap > 0) for gap in gaps]
        elif isinstance(answer, SegmentScores):
            found = [(each.start_s, each.end_s, each.label) for each in answer.segments]
            scores = [each.probability for each in answer.segments]
            claims += zip(scores, right_segments(target.segments, found), strict=True)
    return calibration_error(*zip(*claims, strict=True)) if claims else None


def _best_path(answer: LabelScores, question: LabelsInput, right: Sequence[int]) -> tuple[float, bool]:
    """The probability of the predicted path, and whether it is right."""
    parents = question.parents or (-1,) * len(question.labels)
    end, confidence, is_right = -1, 1.0, True
    while below := [label for label, parent in enumerate(parents) if parent == end]:
        end = max(below, key=answer.probabilities.__getitem__)
        confidence, is_right = confidence * answer.probabilities[end], is_right and end in right
    return confidence, is_right
