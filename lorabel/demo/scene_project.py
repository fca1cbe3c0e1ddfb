"""The demo's second project: boxes around things in drawn scenes, their masks, and clicks that become masks.

The detector knows what `Blue square` and `Green star` mean. `Grade A` is a red circle with a hole, which no model
can know before it has seen some. Red circles without a hole, and red crosses, have no label.
"""

from itertools import islice
from types import MappingProxyType
from typing import Any

from lorabel.database.project_keys import LabelStudioId
from lorabel.demo.project import upload_project
from lorabel.demo.scenes import Scene, Thing, png, random_scenes
from lorabel.label_studio.client import LabelStudio
from lorabel.labeling.bit_masks import BitMask, encode, fill_polygon, runs_of
from lorabel.labeling.image_regions import image_region, picture_region
from lorabel.labeling.regions import Region

TITLE = "Lorabel demo: find the things, and mask them"
SIZE = (256, 256)
SEED = 78
GRADE = "Grade A"
PAIRS = MappingProxyType({("blue", "square"): "Blue square", ("green", "star"): "Green star"})
DRAWN = (*PAIRS, ("red", "circle"), ("red", "cross"))
COLOURS = MappingProxyType({"Blue square": "#0d47a1", "Green star": "#1b7f3b", GRADE: "#e0218a"})
_LABELS = "".join(f'<Label value="{name}" background="{colour}"/>' for name, colour in COLOURS.items())
LABEL_CONFIG = f"""<View>
  <Header value="Boxes: where are these things?"/>
  <RectangleLabels name="box" toName="image">{_LABELS}</RectangleLabels>
  <Header value="Masks: of a click, too; switch on Auto-Annotation and choose a label below"/>
  <KeyPointLabels name="click" toName="image" smart="true">{_LABELS}</KeyPointLabels>
  <BrushLabels name="mask" toName="image">{_LABELS}</BrushLabels>
  <Image name="image" value="$image" width="512px"/>
</View>"""


def scenes(count: int) -> list[Scene]:
    """The project's first `count` scenes, always the same and in the same order."""
    return list(islice(random_scenes(SEED, SIZE, pairs=DRAWN), count))


def right_label(thing: Thing) -> str | None:
    """The label that the rule of the project gives a thing; None if it has none."""
    if (thing.colour, thing.shape, thing.has_hole) == ("red", "circle", True):
        return GRADE
    return PAIRS.get((thing.colour, thing.shape))


def right_regions(scene: Scene) -> list[Region]:
    """What an annotator submits: a box and a mask for each thing that has a label."""
    regions = []
    for thing in scene.things:
        name = right_label(thing)
        if name is not None:
            labels = {"rectanglelabels": [name]}
            regions.append(image_region("box", "image", "rectanglelabels", thing.corners, SIZE, labels))
            mask = {"format": "rle", "rle": encode(runs_of(mask_of(thing))), "brushlabels": [name]}
            regions.append(picture_region("mask", "image", "brushlabels", SIZE, mask))
    return regions


def mask_of(thing: Thing) -> BitMask:
    """The pixels of a thing, its hole included."""
    width, height = SIZE
    return fill_polygon([(x * width, y * height) for x, y in thing.outline], width, height)


def scene_of(task_data: dict[str, Any], count: int) -> Scene:
    """The scene of a task, found by the name of the uploaded file, which Label Studio keeps.

    Args:
        task_data: for example `{"image": "/data/upload/2/b3d4456e-scene-017.png"}`.
        count: number of scenes in the project.
    """
    number = int(task_data["image"].rsplit("-", 1)[1].removesuffix(".png"))
    return scenes(count)[number]


def create_project(label_studio: LabelStudio, count: int) -> LabelStudioId:
    """Create a project and upload `count` scenes, in the order of `scenes`; see `project.create_project`."""
    files = [(f"scene-{index:03d}.png", png(scene), "image/png") for index, scene in enumerate(scenes(count))]
    return upload_project(label_studio, TITLE, LABEL_CONFIG, files)
