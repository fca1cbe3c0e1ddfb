"""Events of series after few annotated series: the fitted head beside logistic regression.

    python -m benchmarks.series_curves [--seeds 5] [--patchtst 60]

Drawn series with steps, bursts and spikes (`tests/series_scenes.py`). The test series are never annotated. The
figures are means over the seeds, which choose the annotated series: F1 at an overlap of a half, the mean error of
boundaries in steps of the series, and the CPU time of a fit. `make curves CURVES="--only series"` draws the F1
beside others.

- head: what the product fits.
- logistic regression, cross-validated: scikit-learn's, on usual statistics of the window around each point (mean,
  deviation, least, most, slope), and the likeliest sequence as for the head. Or each window by itself: a label
  where its probability is at least a half.
- logistic regression on the head's features: the same regression in the place of the head.
- PatchTST: the head's fit on the states of a PatchTST of transformers that has trained itself on the series to
  annotate, see `benchmarks/patchtst.py`; alone, and beside the head's own features.
"""

import argparse
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.calibration import calibration_error
from benchmarks.curve_report import CROSS_VALIDATED, HEAD, SERIES, ZERO_SHOT, Point
from benchmarks.patchtst import Encode, trained_encoder
from lorabel.evaluation.series_metrics import right_series_segments, series_metrics
from lorabel.families.encoders.heads.fit_series import INSTANT, AnnotatedSeries, fit_series
from lorabel.families.encoders.heads.linear_head import Array
from lorabel.families.series.cells import Cells, cells_of
from lorabel.families.series.found_series import SWITCH, found_series
from lorabel.families.series.windows import HOP, window_features, window_shares
from lorabel.families.series_encoder import NEVER
from lorabel.media.series import Series
from lorabel.series_contracts import SeriesScores, SeriesTarget
from tests.series_scenes import NAMES, SPIKE, DrawnSeries, drawn_series

COUNTS, SEEDS = (5, 10, 20, 40), 5
FIRST, TO_ANNOTATE, TESTED = 10_000, 60, 30
FOLDS, STRENGTHS = 3, (0.01, 0.1, 1.0, 10.0)
IS_INSTANT = tuple(label == SPIKE for label in range(len(NAMES)))
ALONE, ON_SAME_FEATURES, PATCHTST, BESIDE = (
    "the same, each window by itself",
    "logistic regression on the head's features",
    "PatchTST that trained itself",
    "head's features and PatchTST",
)


@dataclass(frozen=True)
class Drawn:
    """A series with its truth.

    Args:
        features: (windows, dim): the head's.
        plain: (windows, dim): usual statistics.
        states: (windows, dim): of the PatchTST; (windows, 0) without it.
        shares: (windows, labels): what is right.
    """

    drawn: DrawnSeries
    cells: Cells
    features: Array
    plain: Array
    states: Array
    shares: Array


Answer = Callable[[Drawn], SeriesScores]
Learn = Callable[[Sequence[Drawn]], Answer]


def draw(encode: Encode | None) -> list[Drawn]:
    """The series, those to annotate first."""
    return [_draw(FIRST + number, encode) for number in range(TO_ANNOTATE + TESTED)]


def _draw(number: int, encode: Encode | None) -> Drawn:
    drawn = drawn_series(number)
    cells = cells_of(Series(drawn.times, drawn.values))
    features = window_features(cells).astype(np.float32)
    states = np.zeros((len(features), 0), np.float32) if encode is None else encode(cells.mean)[::HOP]
    return Drawn(
        drawn, cells, features, plain_features(cells), states, window_shares(cells, drawn.events, len(NAMES))
    )


def plain_features(cells: Cells, width: int = 17) -> Array:
    """Mean, deviation, least, most and slope of `width` cells around each window, of each channel."""
    values = (cells.mean - cells.mean.mean(axis=0)) / cells.mean.std(axis=0)
    around = np.lib.stride_tricks.sliding_window_view(
        np.pad(values, ((width // 2, width // 2), (0, 0)), mode="edge"), width, axis=0
    )[::HOP]
    slope = around @ np.linspace(-1, 1, width)
    parts = [around.mean(-1), around.std(-1), around.min(-1), around.max(-1), slope, values[::HOP]]
    return np.asarray(np.concatenate(parts, axis=1), np.float32)


def by_head(features_of: Callable[[Drawn], Array]) -> Learn:
    """The product's fit on some features."""

    def learn(annotated: Sequence[Drawn]) -> Answer:
        head = fit_series(
            [
                AnnotatedSeries(features_of(each), each.shares, SeriesTarget(each.drawn.events), number)
                for number, each in enumerate(annotated)
            ]
        )
        assert head is not None
        is_instant = [slot == INSTANT for slot in head.slots]

        def answer(drawn: Drawn) -> SeriesScores:
            logits = head.logits(features_of(drawn), np.zeros((1, len(NAMES)), np.float32))
            logits[:, ~head.is_learned] = NEVER
            return found_series(logits, drawn.cells, is_instant, scales=head.score_scales)

        return answer

    return learn


def by_regression(features_of: Callable[[Drawn], Array], *, is_smooth: bool) -> Learn:
    """scikit-learn's logistic regression for each label; its strength is cross-validated, a series in one fold."""

    def learn(annotated: Sequence[Drawn]) -> Answer:
        groups = np.repeat(np.arange(len(annotated)), [len(each.shares) for each in annotated])
        rows = np.concatenate([features_of(each) for each in annotated])
        truth = np.concatenate([each.shares for each in annotated]) >= 0.5
        models = [_regression(rows, column, groups) for column in truth.T]

        def answer(drawn: Drawn) -> SeriesScores:
            logits = np.stack([model.decision_function(features_of(drawn)) for model in models], axis=1)
            # Without costs of switches each window is decided by itself.
            return found_series(logits.astype(np.float32), drawn.cells, IS_INSTANT, SWITCH if is_smooth else 0.0)

        return answer

    return learn


def _regression(rows: Array, truth: NDArray[np.bool_], groups: NDArray[np.intp]) -> Any:
    folds = list(GroupKFold(min(FOLDS, len(np.unique(groups)))).split(rows, groups=groups))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if any(len(np.unique(truth[kept])) < 2 for kept, _ in folds):
            model: Any = LogisticRegression(C=0.1, max_iter=200)
        else:
            model = LogisticRegressionCV(Cs=STRENGTHS, cv=folds, max_iter=200, scoring="neg_log_loss")
        return make_pipeline(StandardScaler(), model).fit(rows, truth)


WAYS: Mapping[str, Learn] = MappingProxyType(
    {
        HEAD: by_head(lambda each: each.features),
        CROSS_VALIDATED: by_regression(lambda each: each.plain, is_smooth=True),
        ALONE: by_regression(lambda each: each.plain, is_smooth=False),
        ON_SAME_FEATURES: by_regression(lambda each: each.features, is_smooth=True),
    }
)
WAYS_WITH_PATCHTST: Mapping[str, Learn] = MappingProxyType(
    {
        PATCHTST: by_head(lambda each: each.states),
        BESIDE: by_head(lambda each: np.concatenate([each.features, each.states], axis=1)),
    }
)


def figures(answer: Answer, tested: Sequence[Drawn]) -> tuple[float, float]:
    """F1, and the error of boundaries in steps."""
    outputs = [answer(each) for each in tested]
    values = series_metrics(
        [each.drawn.events for each in tested],
        [[(found.start, found.end, found.label) for found in output.segments] for output in outputs],
        [output.step for output in outputs],
        NAMES,
    ).values
    return float(values["f1"]), float(values["boundary_error_steps"] or np.nan)


def measure(name: str, counts: Sequence[int], seeds: int) -> list[Point]:
    """The points of the learning curves of `benchmarks.curves`. Before an annotation nothing is found."""
    drawn = draw(None)
    points = [Point(name, ZERO_SHOT, seed, 0, 0.0, None, 0.0, SERIES) for seed in range(seeds)]
    for way in (HEAD, CROSS_VALIDATED):
        for count in counts:
            for seed in range(seeds):
                f1, _, error, seconds = _measured(WAYS[way], drawn, count, seed)
                points.append(Point(name, way, seed, count, f1, error, seconds, SERIES))
    return points


def _measured(learn: Learn, drawn: Sequence[Drawn], count: int, seed: int) -> tuple[float, ...]:
    """F1, error of boundaries in steps, error of the scores, and CPU seconds of the fit."""
    order = np.random.default_rng(seed).permutation(TO_ANNOTATE)[:count]
    began = time.thread_time()
    answer = learn([drawn[index] for index in order])
    seconds = time.thread_time() - began
    unseen = drawn[TO_ANNOTATE:]
    return (*figures(answer, unseen), _calibration_error(answer, unseen), seconds)


def _calibration_error(answer: Answer, unseen: Sequence[Drawn]) -> float:
    scores, is_right = list[float](), list[bool]()
    for each in unseen:
        output = answer(each)
        found = [(segment.start, segment.end, segment.label) for segment in output.segments]
        scores += [segment.probability for segment in output.segments]
        is_right += right_series_segments(each.drawn.events, found, output.step)
    return calibration_error(scores, is_right)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--patchtst", type=float, default=0.0, help="CPU seconds of its training; 0 leaves it out")
    options = parser.parse_args()
    encode, ways = None, dict(WAYS)
    if options.patchtst:
        values = [cells_of(Series(each.times, each.values)).mean for each in map(drawn_series, _to_annotate())]
        encode = trained_encoder(values, options.patchtst)
        ways |= WAYS_WITH_PATCHTST
    drawn = draw(encode)
    print("  0 series  nothing is found")
    for count in (2, *COUNTS):
        for name, learn in ways.items():
            measured = [_measured(learn, drawn, count, seed) for seed in range(options.seeds)]
            f1, steps, error, seconds = np.nanmean(measured, axis=0)
            fit = f"scores {error:.3f}  fit {1000 * seconds:5.0f} ms"
            print(f"{count:3} series  {name:44} F1 {f1:.3f}  boundaries {steps:4.1f} steps  {fit}", flush=True)


def _to_annotate() -> range:
    return range(FIRST, FIRST + TO_ANNOTATE)


if __name__ == "__main__":
    main()
