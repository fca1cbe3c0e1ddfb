"""Drawn scenes of shapes with boxes, in which each is left of the next one to the right, at whatever height."""

import itertools
from collections.abc import Iterator, Sequence

from lorabel.demo.scenes import Scene, random_scenes
from lorabel.labeling.image_regions import image_region
from lorabel.labeling.regions import RIGHT, Region, relation

PAIRS = (("red", "circle"), ("blue", "square"), ("purple", "circle"))
SIZE = (192, 144)
LEFT_OF = "left of"
LABEL_CONFIG = (
    f'<View><Image name="image" value="$image"/><Relations><Relation value="{LEFT_OF}"/></Relations>'
    '<RectangleLabels name="box" toName="image">'
    + "".join(f'<Label value="{colour} {shape}"/>' for colour, shape in PAIRS)
    + "</RectangleLabels></View>"
)


def scenes(count: int, seed: int = 11) -> list[Scene]:
    """Scenes with at least three shapes."""
    drawn = random_scenes(seed, SIZE, pairs=PAIRS)
    return list(itertools.islice((scene for scene in drawn if len(scene.things) >= 3), count))


def result_of(scene: Scene) -> list[Region]:
    """The right result: a box around each shape, with an id, and the relations."""
    kind = "rectanglelabels"
    boxes = [
        {
            "id": f"thing{number}",
            **image_region(
                "box", "image", kind, thing.corners, scene.size, {kind: [f"{thing.colour} {thing.shape}"]}
            ),
        }
        for number, thing in enumerate(scene.things)
    ]
    return [*boxes, *_relations(scene)]


def _relations(scene: Scene) -> Iterator[Region]:
    middles: Sequence[float] = [thing.corners[0] + thing.corners[2] for thing in scene.things]
    in_order = sorted(range(len(middles)), key=lambda number: middles[number])
    for left, right in itertools.pairwise(in_order):
        yield relation(f"thing{left}", f"thing{right}", RIGHT, [LEFT_OF])
