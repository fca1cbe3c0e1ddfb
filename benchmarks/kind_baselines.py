"""What a project could do without this product, for every kind of question: regressions on the same features.

- multiple choice: a logistic regression for each label against the rest;
- taxonomies: one logistic regression over all leaves, which knows nothing of the tree;
- ratings: ridge regression, and the mean of the annotations;
- rankings: a logistic regression on the difference between two items;
- spans: a logistic regression on the states of single words, with the targets of `word_targets`;
- segments: a logistic regression for each label on single windows;
- several contents of a choice: their features side by side, and the products of each two.

Each is of two kinds, as in `curve_baselines`: with scaled features and scikit-learn's default strength, and with a
strength that cross-validation chooses.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning, UndefinedMetricWarning
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV, Ridge, RidgeCV
from sklearn.model_selection import GroupKFold
from sklearn.preprocessing import StandardScaler

from benchmarks.curve_baselines import Array
from benchmarks.curve_features import Part
from lorabel.contracts import (
    Contract,
    ItemScores,
    LabelScores,
    LabelsInput,
    RankingInput,
    RatingInput,
    SpanScores,
    SpansInput,
)
from lorabel.families.encoders.heads.fit import Example
from lorabel.families.encoders.heads.head_features import PRODUCTS, map_features, slots_of
from lorabel.families.encoders.heads.item_features import item_features, query_similarities
from lorabel.families.encoders.heads.linear_head import MEAN
from lorabel.families.encoders.heads.platt import Scale
from lorabel.families.encoders.heads.rating_scale import to_number, to_position
from lorabel.families.segments.found_segments import found_segments
from lorabel.families.segments.windows import window_truth
from lorabel.families.spans.word_spans import span_scores
from lorabel.families.spans.word_targets import word_targets
from lorabel.labeling.words import find_words
from lorabel.time_contracts import SegmentScores, SegmentsInput

FOLDS = 3
# For rows whose squared length is 1 on average.
STRENGTHS = (0.1, 1.0, 10.0, 100.0, 1000.0)
# For the windows of recordings, whose length is 1.
WINDOW_STRENGTHS = (1.0, 10.0, 100.0, 1000.0)
PENALTIES = tuple(10.0 ** (exponent / 2) for exponent in range(-6, 7))
LEAST_PROBABILITY = 1e-6

Learn = Callable[[Sequence[Example], Sequence[Example]], list[Contract]]
"""Takes annotated tasks, and tasks to answer; returns the answers."""
FitParts = Callable[[Part, Part], Array]


def choice(learned: Sequence[Example], unseen: Sequence[Example], fit: FitParts) -> list[Contract]:
    """Answer a single choice, or a taxonomy by its leaves."""
    question = cast(LabelsInput, unseen[0].question)
    parts = _parts(learned, unseen, [_leaf(example, question.parents) for example in (*learned, *unseen)])
    of_labels = fit(*parts)
    if question.parents:
        return [LabelScores(probabilities=_likeliest_path(row, question.parents)) for row in of_labels]
    return [LabelScores(probabilities=tuple(row)) for row in of_labels.tolist()]


def multiple(learned: Sequence[Example], unseen: Sequence[Example], fit: FitParts) -> list[Contract]:
    """Answer whether each label fits. A label that all or no tasks have keeps its smoothed share."""
    columns: list[Array] = []
    for label in range(len(cast(LabelsInput, unseen[0].question).labels)):
        truth = [int(label in example.target.indices) for example in (*learned, *unseen)]
        chosen = sum(truth[: len(learned)])
        if chosen in (0, len(learned)):
            columns.append(np.full(len(unseen), (chosen + 0.5) / (len(learned) + 1)))
        else:
            columns.append(fit(*_parts(learned, unseen, truth, 2))[:, 1])
    return [LabelScores(probabilities=tuple(row)) for row in np.stack(columns, axis=1).tolist()]


def mean(learned: Sequence[Example], unseen: Sequence[Example]) -> list[Contract]:
    """Answer every rating with the mean of the annotations."""
    return _estimates(unseen, np.full(len(unseen), _positions(learned).mean()))


def ridge_scaled(learned: Sequence[Example], unseen: Sequence[Example]) -> list[Contract]:
    """Scale each feature; the penalty is 1."""
    if len(learned) < 2:
        return mean(learned, unseen)
    scaler = StandardScaler().fit(_contents(learned))
    model = Ridge().fit(scaler.transform(_contents(learned)), _positions(learned))
    return _estimates(unseen, model.predict(scaler.transform(_contents(unseen))))


def ridge_cross_validated(learned: Sequence[Example], unseen: Sequence[Example]) -> list[Contract]:
    """Centre the features; leave-one-out cross-validation chooses the penalty."""
    features = _contents(learned)
    if len(learned) < 2:
        return mean(learned, unseen)
    centre = features.mean(0)
    scale = np.sqrt(np.square(features - centre).sum(1).mean())
    model = RidgeCV(PENALTIES).fit((features - centre) / scale, _positions(learned))
    return _estimates(unseen, model.predict((_contents(unseen) - centre) / scale))


def ranking_scaled(learned: Sequence[Example], unseen: Sequence[Example]) -> list[Contract]:
    """Divide each feature's difference by its size; C=1."""
    differences, _ = _differences(learned)
    sizes = np.sqrt(np.square(differences).mean(0)).clip(1e-9)
    return _item_scores(unseen, _pair_weights(differences / sizes, 1.0) / sizes)


def ranking_cross_validated(learned: Sequence[Example], unseen: Sequence[Example]) -> list[Contract]:
    """Cross-validation over tasks chooses the strength with the most pairs in order, then the likeliest."""
    differences, tasks = _differences(learned)
    scale = np.sqrt(np.square(differences).sum(1).mean())
    rows = differences / scale

    def score(strength: float) -> tuple[float, float]:
        right, likelihood = 0.0, 0.0
        for train, judged in _folds(tasks):
            margins = rows[judged] @ _pair_weights(rows[train], strength)
            right += float((margins > 0).sum())
            likelihood -= float(np.logaddexp(0, -margins).sum())
        return right, likelihood

    best = max(STRENGTHS, key=lambda strength: (*score(strength), -strength))
    return _item_scores(unseen, _pair_weights(rows, best) / scale)


def spans_scaled(learned: Sequence[Example], unseen: Sequence[Example]) -> list[Contract]:
    """Scale each feature; C=1."""
    words, columns, _ = _words(learned)
    scaler = StandardScaler().fit(words)
    model = _fit_words(scaler.transform(words), columns, 1.0)
    return _spans(unseen, lambda states: _word_probabilities(model, columns, scaler.transform(states), unseen))


def spans_cross_validated(learned: Sequence[Example], unseen: Sequence[Example]) -> list[Contract]:
    """Centre the features; cross-validation over texts chooses the strength with the most words right."""
    words, columns, texts = _words(learned)
    centre = words.mean(0)
    scale = np.sqrt(np.square(words - centre).sum(1).mean())
    rows = (words - centre) / scale

    def score(strength: float) -> float:
        right = 0.0
        for train, judged in _folds(texts):
            model = _fit_words(rows[train], columns[train], strength)
            guessed = columns[train][:1] if model is None else model.predict(rows[judged])
            right += float((guessed == columns[judged]).sum())
        return right

    best = max(STRENGTHS, key=lambda strength: (score(strength), -strength))
    model = _fit_words(rows, columns, best)
    return _spans(unseen, lambda states: _word_probabilities(model, columns, (states - centre) / scale, unseen))


def segments_cross_validated(learned: Sequence[Example], unseen: Sequence[Example]) -> list[Contract]:
    """Cross-validation over recordings chooses the strength of each label by the F1 of windows.

    A label that no window has is never found. One that only some folds have gets the middle strength.
    """
    recordings = np.repeat(np.arange(len(learned)), [len(example.features) for example in learned])
    rows = np.concatenate([example.features for example in learned])
    truth = np.concatenate([_shares(example) for example in learned]) >= 0.5
    models = [_fit_windows(rows, column, recordings) for column in truth.T]

    def probabilities(example: Example) -> Array:
        silent = np.zeros(len(example.features))
        columns = [silent if model is None else model.predict_proba(example.features)[:, 1] for model in models]
        return np.stack(columns, axis=1)

    return [segments_of(example, probabilities(example).astype(np.float32)) for example in unseen]


def segments_of(
    example: Example, probabilities: NDArray[np.float32], scales: Sequence[Scale] = ()
) -> SegmentScores:
    """The segments of a recording that ends with the middle of its last window.

    Args:
        probabilities: (windows, labels).
        scales: see `found_segments`.
    """
    step_s = cast(SegmentsInput, example.question).step_s
    length_s = (len(probabilities) - 1) * step_s
    return found_segments(probabilities, step_s, scales).within(length_s, length_s)


def _shares(example: Example) -> NDArray[np.float32]:
    return window_truth(cast(SegmentsInput, example.question), example.target, len(example.features))


def _fit_windows(
    rows: NDArray[np.float32], truth: NDArray[np.bool_], recordings: NDArray[np.intp]
) -> LogisticRegression | None:
    folds = _folds(recordings)
    if not truth.any():
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", UndefinedMetricWarning)
        if not folds or any(len(np.unique(truth[kept])) < 2 for kept, _ in folds):
            return LogisticRegression(C=WINDOW_STRENGTHS[2], max_iter=300).fit(rows, truth)
        search = LogisticRegressionCV(Cs=WINDOW_STRENGTHS, cv=folds, max_iter=300, scoring="f1")
        return search.fit(rows, truth)


def _parts(
    learned: Sequence[Example], unseen: Sequence[Example], classes: Sequence[int], labels: int | None = None
) -> tuple[Part, Part]:
    """The features with the class of each task, annotated and unseen; `labels`: how many classes there are."""
    count = len(unseen[0].logits) if labels is None else labels
    all_classes = np.array(classes, np.intp)
    learned_part, unseen_part = (
        Part(_contents(examples), np.zeros((len(examples), count), np.float32), part_classes)
        for examples, part_classes in (
            (learned, all_classes[: len(learned)]),
            (unseen, all_classes[len(learned) :]),
        )
    )
    return learned_part, unseen_part


def _contents(examples: Sequence[Example]) -> NDArray[np.float32]:
    """(tasks, features): of a single content its features."""
    modalities = [[content.modality for content in example.question.contents] for example in examples]
    slots = slots_of(modalities)
    feature_map = MEAN if len(slots) == 1 else PRODUCTS
    return np.stack(
        [
            map_features(feature_map, slots, of_task, example.features)
            for example, of_task in zip(examples, modalities, strict=True)
        ]
    )


def _leaf(example: Example, parents: Sequence[int]) -> int:
    """The label at the end of the right path."""
    above = {parents[index] for index in example.target.indices} if parents else set()
    (leaf,) = set(example.target.indices) - above
    return int(leaf)


def _likeliest_path(leaves: Array, parents: Sequence[int]) -> tuple[float, ...]:
    """(labels,): the path to the likeliest leaf, with the leaf's probability as the product of the path's."""
    label = int(leaves.argmax())
    path = [label]
    while parents[path[-1]] >= 0:
        path.append(parents[path[-1]])
    scores = np.zeros(len(parents))
    scores[path] = leaves[label] ** (1 / len(path))
    return tuple(scores.tolist())


def _positions(examples: Sequence[Example]) -> Array:
    return np.array(
        [to_position(cast(RatingInput, example.question), example.target.value) for example in examples]
    )


def _estimates(unseen: Sequence[Example], positions: Array) -> list[Contract]:
    pairs = zip(unseen, positions.tolist(), strict=True)
    return [to_number(cast(RatingInput, example.question), position, 0.0) for example, position in pairs]


def _items(example: Example) -> Array:
    """(items, features): those of the item, and with a query the products with it and the similarity."""
    question = cast(RankingInput, example.question)
    if not question.has_query:
        return item_features(MEAN, question, example.features).astype(np.float64)
    rows = item_features(PRODUCTS, question, example.features)
    return np.concatenate([rows, query_similarities(question, example.features)], axis=1).astype(np.float64)


def _differences(examples: Sequence[Example]) -> tuple[Array, NDArray[np.intp]]:
    """(pairs, features) of the better minus the worse item, and (pairs,) the task of each."""
    differences, tasks = [], []
    for number, example in enumerate(examples):
        items = _items(example)
        for better, worse in example.target.pairs:
            differences.append(items[better] - items[worse])
            tasks.append(number)
    return np.array(differences), np.array(tasks)


def _pair_weights(differences: Array, strength: float) -> Array:
    """The weights of the features of an item. Each pair counts in both directions, so there is no intercept."""
    rows = np.concatenate([differences, -differences])
    truth = np.repeat([1, 0], len(differences))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = LogisticRegression(C=strength / 2, fit_intercept=False, max_iter=300).fit(rows, truth)
    weights: Array = model.coef_[0]
    return weights


def _item_scores(unseen: Sequence[Example], weights: Array) -> list[Contract]:
    return [ItemScores(scores=tuple((_items(example) @ weights).tolist())) for example in unseen]


def _folds(groups: NDArray[np.intp]) -> list[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Rows to learn from and rows to judge; a task's, or text's, rows are in one fold. None for a single task."""
    count = min(FOLDS, len(np.unique(groups)))
    return [] if count < 2 else list(GroupKFold(count).split(groups, groups=groups))


def _words(examples: Sequence[Example]) -> tuple[Array, NDArray[np.intp], NDArray[np.intp]]:
    """The features, the column of `word_targets` and the text of each word."""
    words, columns, texts = [], [], []
    for number, example in enumerate(examples):
        question = cast(SpansInput, example.question)
        found = find_words(question.contents[0].text or "")
        words.append(example.features.astype(np.float64))
        columns.append(word_targets(found, example.target, len(question.labels)).argmax(1))
        texts.append(np.full(len(found), number))
    return np.concatenate(words), np.concatenate(columns), np.concatenate(texts)


def _fit_words(rows: Array, columns: NDArray[np.intp], strength: float) -> LogisticRegression | None:
    """None if all words have the same column."""
    if len(np.unique(columns)) < 2:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return LogisticRegression(C=strength, max_iter=100, tol=1e-2).fit(rows, columns)


def _word_probabilities(
    model: LogisticRegression | None, columns: NDArray[np.intp], states: Array, unseen: Sequence[Example]
) -> Array:
    """(words, 1 + 2 * labels)."""
    probabilities = np.zeros((len(states), 1 + 2 * len(cast(SpansInput, unseen[0].question).labels)))
    if model is None:
        probabilities[:, columns[0]] = 1.0
    else:
        probabilities[:, model.classes_] = model.predict_proba(states)
    return probabilities


def _spans(unseen: Sequence[Example], word_probabilities: Callable[[Array], Array]) -> list[Contract]:
    answers: list[Contract] = []
    for example in unseen:
        question = cast(SpansInput, example.question)
        words = find_words(question.contents[0].text or "")
        if not words:
            answers.append(SpanScores(spans=()))
            continue
        logits = np.log(np.maximum(word_probabilities(example.features.astype(np.float64)), LEAST_PROBABILITY))
        relative = torch.from_numpy(logits[:, 1:] - logits[:, :1])
        answers.append(span_scores(relative.view(len(words), 2, len(question.labels)), words))
    return answers
