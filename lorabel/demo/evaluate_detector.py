"""How well the demo's detector finds what is described to it, of pairs that it was trained on and of others.

    python -m lorabel.demo.evaluate_detector [FOLDER]

The test scenes have other seeds than those of the training. The labels are all pairs of colour and shape, whatever
a scene shows, so that a wrong label counts.
"""

import itertools
import sys
from pathlib import Path

import torch

from lorabel.contracts import Content, MediaRef, Modality
from lorabel.demo import DETECTOR_FOLDER
from lorabel.demo.scenes import ALL_PAIRS, Scene, png, random_scenes
from lorabel.evaluation.box_metrics import boxes
from lorabel.families.base import NO_BATCH_ADAPTERS
from lorabel.families.cache import FeatureCache
from lorabel.families.detector import Detector
from lorabel.settings import Settings
from lorabel.space_contracts import Boxes, BoxesInput, BoxTarget

SCENES = 60
SEED = 1000
NAMES = tuple(f"{colour} {shape}" for colour, shape in ALL_PAIRS)


def predict(family: Detector, scenes: list[Scene], names: tuple[str, ...]) -> list[Boxes]:
    """The detector's boxes for labels that are texts."""
    picture = Content(modality=Modality.IMAGE, media=MediaRef(url="scene"))
    question = BoxesInput(contents=(picture,), labels=tuple((name,) for name in names))
    outputs: list[Boxes] = []
    for scene in scenes:
        prepared = family.prepare(question, lambda _, scene=scene: png(scene))  # type: ignore[misc]
        (output,) = family.predict([prepared], [None], NO_BATCH_ADAPTERS, FeatureCache({}))
        assert isinstance(output, Boxes)
        outputs.append(output)
    return outputs


def main() -> None:
    """Print a table of the figures."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else DETECTOR_FOLDER
    family = Detector.load(f"local-dir:{folder}", torch.device("cpu"), torch.float32, Settings())
    print("| labels | things | mAP@50 | mAP@50:95 |\n|---|---|---|---|")
    for is_unseen, title in ((False, "pairs seen in training"), (True, "pairs never seen")):
        scenes = list(itertools.islice(random_scenes(SEED, is_unseen=is_unseen), SCENES))
        for labels in (NAMES, ("thing",)):
            targets = [
                BoxTarget(
                    tuple(
                        (thing.corners, NAMES.index(f"{thing.colour} {thing.shape}") if labels is NAMES else 0)
                        for thing in scene.things
                    )
                )
                for scene in scenes
            ]
            values = boxes(targets, predict(family, scenes, labels), labels).values
            kind = "colour and shape" if labels is NAMES else "`thing`"
            print(f"| {kind} | {title} | {values['map_50']:.3f} | {values['map']:.3f} |", flush=True)


if __name__ == "__main__":
    main()
