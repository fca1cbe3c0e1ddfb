"""Boxes after few annotated pictures: the label texts alone, the mean of examples, and the fitted head.

    python -m benchmarks.box_curves [--seeds 5]

The demo's detector on drawn scenes. Half of the labels are words that it knows; the others say nothing
(`part 17`). The test scenes are never annotated. For each label: AP@50, then precision, recall and calibration
error of the boxes that are shown. The figures are means over the seeds, which choose the annotated pictures.
"""

import argparse
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import cast

import numpy as np
import torch

from benchmarks.calibration import calibration_error
from lorabel.contracts import Content, MediaRef, Modality
from lorabel.demo import DETECTOR_FOLDER
from lorabel.demo.scenes import ALL_PAIRS, Scene, Thing, png, random_scenes
from lorabel.evaluation.box_metrics import boxes, right_boxes
from lorabel.families.base import NO_BATCH_ADAPTERS
from lorabel.families.cache import FeatureCache
from lorabel.families.detection.views import PreparedInput
from lorabel.families.detector import Detector
from lorabel.families.encoders.heads.fit import Example, fit_head
from lorabel.families.encoders.heads.linear_head import LinearHead
from lorabel.feature_contracts import Features
from lorabel.settings import Settings
from lorabel.space_contracts import Boxes, BoxesInput, BoxTarget

COUNTS = (1, 2, 5, 10)
ANNOTATED, TESTED = 80, 60
SIZE = (192, 144)
BATCH = 20
WORDS, MEAN, HEAD = "label texts", "mean of the examples", "head"


@dataclass(frozen=True)
class Set:
    """Scenes of some pairs of colour and shape, and what their labels stand for.

    Args:
        labels: the label's name -> whether it stands for a drawn thing.
        pairs: colours and shapes in the scenes.
    """

    labels: dict[str, Callable[[Thing], bool]]
    pairs: Sequence[tuple[str, str]]

    def target(self, scene: Scene) -> BoxTarget:
        """The right boxes of a scene."""
        return BoxTarget(
            tuple(
                sorted(
                    (thing.corners, index)
                    for thing in scene.things
                    for index, is_named in enumerate(self.labels.values())
                    if is_named(thing)
                )
            )
        )


def _is(colour: str, shape: str) -> Callable[[Thing], bool]:
    return lambda thing: (thing.colour, thing.shape) == (colour, shape)


SETS = MappingProxyType(
    {
        "parts": Set(
            {
                "part 17": _is("green", "star"),
                "part 18": _is("red", "cross"),
                "blue square": _is("blue", "square"),
                "yellow triangle": _is("yellow", "triangle"),
            },
            (
                ("green", "star"),
                ("red", "cross"),
                ("blue", "square"),
                ("yellow", "triangle"),
                ("purple", "square"),
            ),
        ),
        "grades": Set(
            {
                "grade A": lambda thing: thing.has_hole and _is("red", "circle")(thing),
                "blue square": _is("blue", "square"),
            },
            (("red", "circle"), ("blue", "square"), ("green", "star"), ("red", "cross")),
        ),
        "holes": Set(
            {"grade A": lambda thing: thing.has_hole, "star": lambda thing: thing.shape == "star"}, ALL_PAIRS
        ),
    }
)


@dataclass(frozen=True)
class Annotated:
    """A scene with its states, its right boxes, and what a head is fitted on."""

    prepared: PreparedInput
    target: BoxTarget
    features: Features


def annotated(family: Detector, of_set: Set, count: int = ANNOTATED + TESTED) -> list[Annotated]:
    """So many scenes of a set, each encoded once."""
    picture = Content(modality=Modality.IMAGE, media=MediaRef(url="scene"))
    question = BoxesInput(contents=(picture,), labels=tuple((name,) for name in of_set.labels))
    scenes = itertools.islice(random_scenes(77, SIZE, is_unseen=None, pairs=of_set.pairs), count)
    targets, prepared = [], []
    for scene in scenes:
        targets.append(of_set.target(scene))
        prepared.append(family.prepare(question, lambda _, scene=scene: png(scene)))  # type: ignore[misc]
    pictures = [each for each in prepared if isinstance(each, PreparedInput)]
    return with_features(family, pictures, targets)


def with_features(
    family: Detector, prepared: Sequence[PreparedInput], targets: Sequence[BoxTarget]
) -> list[Annotated]:
    """Encode scenes once, and compute what a head is fitted on."""
    known = [
        each
        for start in range(0, len(prepared), BATCH)
        for each in family.precompute(prepared[start : start + BATCH], (), None)
    ]
    asked = [family.for_features(each, target) for each, target in zip(known, targets, strict=True)]
    features = cast(list[Features], predict(family, asked))
    return [Annotated(*parts) for parts in zip(known, targets, features, strict=True)]


def predict(family: Detector, prepared: Sequence[PreparedInput]) -> list[object]:
    """The detector's answers, batch by batch."""
    outputs: list[object] = []
    for start in range(0, len(prepared), BATCH):
        batch = prepared[start : start + BATCH]
        outputs += family.predict(batch, [None] * len(batch), NO_BATCH_ADAPTERS, FeatureCache({}))
    return outputs


def head_of(pictures: Sequence[Annotated]) -> LinearHead | None:
    """The head of some annotated pictures."""
    examples = [
        Example.of(cast(BoxesInput, picture.prepared.question), picture.features, picture.target)
        for picture in pictures
    ]
    return fit_head(examples, pictures[0].features.space)


def mean_of(pictures: Sequence[Annotated]) -> LinearHead:
    """For each label the mean embedding of its boxes in place of its text's (image-guided detection)."""
    labels = len(cast(BoxesInput, pictures[0].prepared.question).labels)
    dim = pictures[0].features.dim
    weights, is_learned = np.zeros((dim, labels), np.float32), np.zeros(labels, np.bool_)
    for label in range(labels):
        rows = []
        for picture in pictures:
            example = Example.of(picture.prepared.question, picture.features, None)
            rows += [example.features[row] for row, (_, of) in enumerate(picture.target.boxes) if of == label]
        if rows:
            embeddings = np.stack(rows)[:, :-1]
            mean = (embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)).mean(0)
            weights[:, label] = np.append(mean / np.linalg.norm(mean), 1.0)
            is_learned[label] = True
    return LinearHead(weights, np.zeros(labels, np.float32), 0.0, is_learned)


def answers(family: Detector, head: LinearHead | None, tested: Sequence[Annotated]) -> list[Boxes]:
    """The boxes that a head finds; None: the label texts."""
    asked = [replace(each.prepared, fitted_head=head) for each in tested]
    return cast(list[Boxes], predict(family, asked))


def figures(of_set: Set, tested: Sequence[Annotated], outputs: Sequence[Boxes]) -> dict[str, list[float]]:
    """By label: AP@50, precision and recall of the boxes that are shown, and calibration error of all."""
    values = boxes([each.target for each in tested], outputs, list(of_set.labels)).values["per_class"]
    by_label: dict[str, list[float]] = {}
    for index, name in enumerate(of_set.labels):
        cases = [
            (box.probability, is_right)
            for each, output in zip(tested, outputs, strict=True)
            for box, is_right in zip(output.boxes, right_boxes(each.target, output), strict=True)
            if box.label == index and box.probability >= output.threshold
        ]
        error = calibration_error([score for score, _ in cases], [bool(is_right) for _, is_right in cases])
        by_label[name] = [values[name]["ap_50"], values[name]["precision"], values[name]["recall"], error]
    return by_label


def curve(family: Detector, of_set: Set, seeds: int) -> Iterator[str]:
    """The rows of the table of a set."""
    pictures = annotated(family, of_set)
    tested = pictures[ANNOTATED:]
    yield _row(WORDS, 0, [figures(of_set, tested, answers(family, None, tested))])
    for count in COUNTS:
        for way, learn in ((MEAN, mean_of), (HEAD, head_of)):
            measured, fit_s = [], 0.0
            for seed in range(seeds):
                order = np.random.default_rng(seed).permutation(ANNOTATED)[:count]
                began = time.thread_time()
                head = learn([pictures[index] for index in order])
                fit_s += (time.thread_time() - began) / seeds
                measured.append(figures(of_set, tested, answers(family, head, tested)))
            yield _row(way, count, measured, fit_s)


def _row(way: str, count: int, measured: Sequence[dict[str, list[float]]], fit_s: float | None = None) -> str:
    """Label by label AP@50 (precision, recall, calibration error)."""
    cells = []
    for name in measured[0]:
        ap, precision, recall, error = np.mean([figures[name] for figures in measured], axis=0)
        cells.append(f"{ap:.2f} ({precision:.2f}, {recall:.2f}, {error:.2f})")
    seconds = "-" if fit_s is None else f"{1000 * fit_s:.0f} ms"
    return f"| {count} | {way} | {' | '.join(cells)} | {seconds} |"


def main() -> None:
    """Print a table for each set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", choices=sorted(SETS), action="append")
    options = parser.parse_args()
    torch.set_num_threads(1)
    family = Detector.load(f"local-dir:{DETECTOR_FOLDER}", torch.device("cpu"), torch.float32, Settings())
    for name in options.only or SETS:
        labels = " | ".join(f"`{label}`" for label in SETS[name].labels)
        print(f"\n`{name}`\n\n| pictures | | {labels} | fit |")
        print(f"|---|---|{'---|' * len(SETS[name].labels)}---|")
        for row in curve(family, SETS[name], options.seeds):
            print(row, flush=True)


if __name__ == "__main__":
    main()
