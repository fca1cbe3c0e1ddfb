"""What a tiny MM-GroundingDINO finds that `lorabel.demo.train_grounding_detector` has trained on drawn scenes."""

import itertools
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from lorabel.contracts import Content, MediaRef, Modality
from lorabel.demo.scenes import Scene, png, random_scenes
from lorabel.evaluation.box_matching import match_boxes
from lorabel.evaluation.box_metrics import boxes as box_metrics
from lorabel.families.base import NO_BATCH_ADAPTERS
from lorabel.families.cache import FeatureCache
from lorabel.families.detector import Detector
from lorabel.families.encoders.heads.fit import Example, fit_head
from lorabel.families.encoders.heads.linear_head import LinearHead
from lorabel.feature_contracts import Features
from lorabel.settings import Settings
from lorabel.space_contracts import Boxes, BoxesInput, BoxTarget, Corners

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).parents[2] / "data" / "grounding_detector"
SIZE = (64, 64)
PARTS = (("red", "cross"), ("green", "star"), ("blue", "square"), ("yellow", "triangle"))


@pytest.fixture(scope="module")
def family() -> Detector:
    settings = Settings(detector_threshold=0.3)
    return Detector.load(f"local-dir:{FOLDER}", torch.device("cpu"), torch.float32, settings)


def question(names: Sequence[str], examples: tuple[tuple[Corners, int], ...] = ()) -> BoxesInput:
    picture = Content(modality=Modality.IMAGE, media=MediaRef(url="x"))
    return BoxesInput(contents=(picture,), labels=tuple((name,) for name in names), examples=examples)


def detect(family: Detector, scene: Scene, asked: BoxesInput, head: LinearHead | None = None) -> Boxes:
    prepared = family.with_head(family.prepare(asked, lambda _: png(scene)), head)
    (output,) = family.predict([prepared], [None], NO_BATCH_ADAPTERS, FeatureCache({}))
    assert isinstance(output, Boxes)
    return output


def scenes(seed: int, count: int, **options: object) -> list[Scene]:
    return list(itertools.islice(random_scenes(seed, SIZE, **options), count))  # type: ignore[arg-type]


def average_precisions(
    family: Detector, drawn: list[Scene], name_of: dict[tuple[str, str], str], head: LinearHead | None = None
) -> dict[str, float]:
    """AP@50 of each name."""
    names = sorted(set(name_of.values()))
    outputs = [detect(family, scene, question(names), head) for scene in drawn]
    values = box_metrics([target(scene, name_of) for scene in drawn], outputs, names).values
    return {name: values["per_class"][name]["ap_50"] for name in names}


def target(scene: Scene, name_of: dict[tuple[str, str], str]) -> BoxTarget:
    names = sorted(set(name_of.values()))
    named = [(thing.corners, name_of.get((thing.colour, thing.shape))) for thing in scene.things]
    return BoxTarget(tuple(sorted((corners, names.index(name)) for corners, name in named if name is not None)))


def test_described_things_are_found_with_their_labels_in_scenes_it_was_not_trained_on(family: Detector) -> None:
    found = average_precisions(family, scenes(2000, 30, pairs=PARTS), {pair: " ".join(pair) for pair in PARTS})
    assert min(found.values()) > 0.5, found


def test_others_like_an_example_are_found_whatever_the_label_is_called(family: Detector) -> None:
    """Two things of each of two kinds: with one of them as the example, the likeliest other box is its twin."""
    kinds = (("red", "cross"), ("green", "star"), ("blue", "square"))
    twins = [
        scene
        for scene in scenes(3, 400, pairs=kinds)
        if sorted(Counter(thing.colour for thing in scene.things).values()) == [2, 2]
    ][:10]
    hits = 0
    for scene in twins:
        first = scene.things[0]
        (twin,) = [thing for thing in scene.things[1:] if thing.colour == first.colour]
        output = detect(family, scene, question(("something", "grade A"), ((first.corners, 1),)))
        assert {box.label for box in output.boxes} == {1}
        assert not match_boxes([first.corners], [box.corners for box in output.boxes])
        hits += bool(match_boxes([twin.corners], [box.corners for box in output.boxes[:1]]))
    assert len(twins) == 10 and hits >= 7


def test_a_head_of_a_few_pictures_finds_what_no_words_say_and_keeps_what_words_say(family: Detector) -> None:
    name_of = {("green", "star"): "part 17", ("yellow", "triangle"): "yellow triangle"}
    asked, examples, space = question(sorted(set(name_of.values()))), [], ""
    drawn = scenes(21, 60, is_unseen=None, pairs=PARTS)
    annotated = [scene for scene in drawn[:30] if any(label == 0 for _, label in target(scene, name_of).boxes)][:4]
    for scene in annotated:
        truth = target(scene, name_of)
        prepared = family.prepare(asked, lambda _, scene=scene: png(scene))  # type: ignore[misc]
        (features,) = family.predict(
            [family.for_features(prepared, truth)], [None], NO_BATCH_ADAPTERS, FeatureCache({})
        )
        assert isinstance(features, Features)
        examples.append(Example.of(asked, features, truth))
        space = features.space
    before = average_precisions(family, drawn[30:], name_of)
    after = average_precisions(family, drawn[30:], name_of, fit_head(examples, space))
    assert before["part 17"] < 0.2 and after["part 17"] > before["part 17"] + 0.3, f"{before} -> {after}"
    assert after["yellow triangle"] > before["yellow triangle"] - 0.05, f"{before} -> {after}"
