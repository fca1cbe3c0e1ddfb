"""In the real Label Studio: a detector that reads texts and picture together (tests/data/grounding_detector).

Green stars are `part 17`, which no words say: before anything was annotated, only blue squares are found.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import Chrome

from lorabel.demo.scenes import Scene, png
from lorabel.evaluation.box_matching import match_boxes
from lorabel.label_studio.client import LabelStudio
from lorabel.labeling.image_regions import corners_of, image_region
from lorabel.labeling.regions import Region
from lorabel.space_contracts import Corners
from tests.e2e.courses import Course, data_url
from tests.e2e.courses.boxes import scenes
from tests.e2e.label_studio_server import Server
from tests.e2e.lorabel_processes import Lorabel
from tests.e2e.test_boxes_in_browser import look_move_and_submit
from tests.e2e.test_every_problem_learns import NEVER, annotate, predictions, train

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(900)]

FOLDER = Path(__file__).parents[1] / "data" / "grounding_detector"
PART, SQUARE = "part 17", "blue square"
LABELS = {("green", "star"): PART, ("blue", "square"): SQUARE}
CONFIG = (
    '<View><Image name="image" value="$image"/><RectangleLabels name="box" toName="image">'
    f'<Label value="{PART}" background="magenta"/><Label value="{SQUARE}" background="blue"/></RectangleLabels>'
    "</View>"
)
UNSEEN = 8
TASKS = 32


def places(scene: Scene) -> list[tuple[str, Corners]]:
    """Label and place of each thing that has a label."""
    labels = [LABELS.get((thing.colour, thing.shape)) for thing in scene.things]
    return [(label, thing.corners) for label, thing in zip(labels, scene.things, strict=True) if label is not None]


def has_one_of_each(scene: Scene) -> bool:
    return Counter(label for label, _ in places(scene)) == {PART: 1, SQUARE: 1}


def drawn_scenes() -> list[Scene]:
    """The first of the unseen ones has one thing of each label."""
    drawn = scenes(2 * TASKS, seed=6)
    first = next(scene for scene in drawn if has_one_of_each(scene))
    others = [scene for scene in drawn if scene is not first][: TASKS - 1]
    return [*others[: 1 - UNSEEN], first, *others[1 - UNSEEN :]]


def boxes_of(scene: Scene) -> list[Region]:
    return [
        image_region("box", "image", "rectanglelabels", corners, scene.size, {"rectanglelabels": [label]})
        for label, corners in places(scene)
    ]


def right(drawn: Sequence[Scene], results: Sequence[list[Any]], label: str) -> tuple[int, int, int]:
    """How many things of a label are found, how many there are, and how many boxes are shown."""
    hits = wanted = shown = 0
    for scene, result in zip(drawn, results, strict=True):
        things = [corners for of, corners in places(scene) if of == label]
        found = [corners_of(region) for region in result if region["value"]["rectanglelabels"] == [label]]
        hits += len(match_boxes(things, found))
        wanted, shown = wanted + len(things), shown + len(found)
    return hits, wanted, shown


def test_it_predicts_learns_from_boxes_and_what_the_editor_shows_can_be_moved_and_submitted(
    start_lorabel: Callable[..., Lorabel],
    label_studio: Server,
    client: LabelStudio,
    browser: Chrome,
    artifacts: Path,
) -> None:
    never = {"TRAIN_AFTER_ANNOTATIONS": NEVER, "TRAIN_MIN_ANNOTATIONS": NEVER}
    lorabel = start_lorabel({**never, "MODEL_DETECTOR": f"local-dir:{FOLDER}", "TRAIN_STEPS": "40"})
    drawn = drawn_scenes()
    tasks = [({"image": data_url(png(scene), "image/png")}, boxes_of(scene)) for scene in drawn]
    course = Course(CONFIG, lambda: tasks, lambda _: {}, {"box": "map_50"}, UNSEEN)
    project_id, before = annotate(client, "Grounding DINO", course, lorabel, label_studio)
    unseen = drawn[-UNSEEN:]
    hits, wanted, _ = right(unseen, list(before.values()), SQUARE)
    assert hits >= 0.7 * wanted, f"{hits} of {wanted} blue squares: words say what they are"
    hits, wanted, _ = right(unseen, list(before.values()), PART)
    assert hits == 0 < wanted, "words do not say what it is"

    run, versions = train(lorabel, project_id)
    (live,) = [version["version"] for version in versions if version["state"] == "live"]
    after = list(predictions(client, project_id, list(before), live).values())
    for label in (PART, SQUARE):
        hits, wanted, shown = right(unseen, after, label)
        assert hits >= 0.7 * wanted and hits >= 0.7 * shown, f"{label}: {hits} of {wanted}, {shown} boxes; {run}"
    shown_labels = {label for region in after[0] for label in region["value"]["rectanglelabels"]}
    things = {label: corners for label, corners in places(unseen[0]) if label in shown_labels}
    look_move_and_submit(browser, label_studio, client, project_id, things, PART, artifacts / "grounding-dino.png")
