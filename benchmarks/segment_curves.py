"""Segments of sounds after few annotated sounds: the fitted head beside other ways to learn on the same windows.

    python -m benchmarks.segment_curves [--seeds 3]

A tiny CLAP of random weights on drawn sounds with hums, whistles and hisses, some of which are heard together. The
test sounds are never annotated. The figures are means over the seeds, which choose the annotated sounds: F1 at an
overlap of a half, the mean error of boundaries in milliseconds, and the seconds of a fit.
"""

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from sklearn.model_selection import GroupKFold

from lorabel.contracts import Content, MediaRef, Modality
from lorabel.evaluation.segment_metrics import segment_metrics
from lorabel.families.audio_text_encoder import AudioTextEncoder
from lorabel.families.base import NO_BATCH_ADAPTERS, Fetch
from lorabel.families.cache import FeatureCache
from lorabel.families.encoders.heads.fit import Example, fit_head
from lorabel.families.encoders.heads.fit_multiple import fit_multiple
from lorabel.families.encoders.heads.linear_head import Array, LinearHead, probabilities
from lorabel.families.segments.found_segments import found_segments
from lorabel.families.segments.windows import window_shares
from lorabel.settings import Settings
from lorabel.time_contracts import STEP_S, SegmentsInput, SegmentTarget
from tests.audio_files import encoded
from tests.sound_scenes import NAMES, drawn_sound

COUNTS = (2, 5, 10, 20, 40)
ANNOTATED, TESTED = 60, 30
LENGTH_S = 6.0
FOLDS = 3
STRENGTHS = (1.0, 10.0, 100.0, 1000.0)
QUESTION = SegmentsInput(
    contents=(Content(modality=Modality.AUDIO, media=MediaRef(url="sound")),),
    labels=tuple((name,) for name in NAMES),
)

# From annotated sounds to a function from a sound to the probabilities of its windows, (windows, labels).
Learn = Callable[[Sequence[Example]], Callable[[Example], Array]]


def examples(folder: Path) -> list[Example]:
    """The drawn sounds, those to annotate first."""
    torch.manual_seed(0)
    source = AudioTextEncoder.tiny(folder)
    family = AudioTextEncoder.load(source, torch.device("cpu"), torch.float32, Settings())
    drawn = []
    for number in range(ANNOTATED + TESTED):
        sound, marked = drawn_sound(number, LENGTH_S)
        asked = family.for_features(family.prepare(QUESTION, _fetching(encoded(sound))), None)
        (features,) = family.predict([asked], [None], NO_BATCH_ADAPTERS, FeatureCache({}))
        drawn.append(Example.of(QUESTION, features, SegmentTarget(tuple(marked))))  # type: ignore[arg-type]
    return drawn


def _fetching(file: bytes) -> Fetch:
    return lambda _: file


def zero_shot_of(example: Example) -> Array:
    """The logits of the label texts, (windows, labels)."""
    return example.logits.reshape(len(example.features), -1)


def shares_of(example: Example) -> Array:
    """See `window_shares`."""
    return window_shares(example.target, len(example.features), len(NAMES), STEP_S)


def by_head(head: LinearHead | None) -> Callable[[Example], Array]:
    """Answer with a head; without one as the base model does."""
    return lambda example: probabilities(head, example.features, zero_shot_of(example), is_multiple=True)


def ridges(learned: Sequence[Example]) -> Callable[[Example], Array]:
    """The head of multiple choice, on windows."""
    groups = [number for number, example in enumerate(learned) for _ in example.features]
    features, zero_shot, shares = (
        np.concatenate([part(example) for example in learned])
        for part in (lambda example: example.features, zero_shot_of, shares_of)
    )
    return by_head(fit_multiple(features, zero_shot, shares, groups))


def regression(learned: Sequence[Example]) -> Callable[[Example], Array]:
    """scikit-learn's logistic regression for each label; its strength is cross-validated, a sound in one fold."""
    groups = np.repeat(np.arange(len(learned)), [len(example.features) for example in learned])
    rows = np.concatenate([example.features for example in learned])
    truth = np.concatenate([shares_of(example) for example in learned]) >= 0.5
    models = [_regression(rows, column, groups) for column in truth.T]

    def answer(example: Example) -> Array:
        silent = np.zeros(len(example.features))
        columns = [silent if model is None else model.predict_proba(example.features)[:, 1] for model in models]
        return np.stack(columns, axis=1)

    return answer


def _regression(rows: Array, truth: NDArray[np.bool_], groups: NDArray[np.intp]) -> LogisticRegression | None:
    """None if a label is nowhere. A label that only some folds have cannot be cross-validated."""
    folds = list(GroupKFold(min(FOLDS, len(np.unique(groups)))).split(rows, groups=groups))
    if not truth.any():
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.simplefilter("ignore", FutureWarning)
        if any(len(np.unique(truth[kept])) < 2 for kept, _ in folds):
            return LogisticRegression(C=STRENGTHS[2], max_iter=300).fit(rows, truth)
        search = LogisticRegressionCV(Cs=STRENGTHS, cv=folds, max_iter=300, scoring="f1")
        return search.fit(rows, truth)


WAYS: Mapping[str, Learn] = MappingProxyType(
    {
        "head": lambda learned: by_head(fit_head(learned, "")),
        "ridges of multiple choice": ridges,
        "logistic regression, cross-validated": regression,
    }
)


def figures(answer: Callable[[Example], Array], tested: Sequence[Example]) -> tuple[float, float]:
    """F1, and the error of boundaries in milliseconds."""
    predicted = [
        [
            (found.start_s, found.end_s, found.label)
            for found in found_segments(answer(example), STEP_S).within(LENGTH_S, LENGTH_S).segments
        ]
        for example in tested
    ]
    values = segment_metrics([example.target.segments for example in tested], predicted, NAMES).values
    return values["f1"], values["boundary_error_ms"] or float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    seeds = parser.parse_args().seeds
    with tempfile.TemporaryDirectory() as folder:
        drawn = examples(Path(folder))
    to_annotate, tested = drawn[:ANNOTATED], drawn[ANNOTATED:]
    f1, error_ms = figures(by_head(None), tested)
    print(f"{0:3} sounds  {'label texts':38} F1 {f1:.3f}  boundaries {error_ms:4.0f} ms")
    for count in COUNTS:
        for name, learn in WAYS.items():
            measured = []
            for seed in range(seeds):
                order = np.random.default_rng(seed).permutation(ANNOTATED)[:count]
                began = time.thread_time()
                answer = learn([to_annotate[index] for index in order])
                seconds = time.thread_time() - began
                measured.append((*figures(answer, tested), seconds))
            f1, error_ms, seconds = np.nanmean(measured, axis=0)
            fit = f"fit {1000 * seconds:5.0f} ms"
            print(f"{count:3} sounds  {name:38} F1 {f1:.3f}  boundaries {error_ms:4.0f} ms  {fit}")


if __name__ == "__main__":
    main()
