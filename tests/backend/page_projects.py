"""More projects for the pages, beside those of `page_history`.

Project 3 has boxes, of which versions found more and more. Project 4 has pictures with texts. Project 5 is new:
nothing is in it.
"""

import base64
from datetime import timedelta
from itertools import islice
from typing import Any

import numpy as np

from lorabel.contracts import Content, EmbedInput, Modality
from lorabel.database import task_embeddings
from lorabel.database.store import Store
from lorabel.database.tables import (
    Annotation,
    BulkRun,
    BulkRunKind,
    ModelVersion,
    Project,
    RunState,
    TaskOutcome,
    VersionState,
    now,
)
from lorabel.database.task_embeddings import TaskVector
from lorabel.demo.scenes import Corners, Scene, Thing, png, random_scenes
from lorabel.labeling.bit_masks import encode, runs_of
from lorabel.labeling.image_regions import image_region, picture_region
from tests.backend import page_history

BOXES, EXPLAINED, NEW = 3, 4, 5
SCENES = 12
SIZE = (256, 192)
NAMES = tuple(f"{colour} {shape}" for colour, shape in (("blue", "square"), ("green", "star"), ("red", "circle")))
BOX_CONFIG = (
    '<View><Image name="image" value="$image"/><RectangleLabels name="box" toName="image">'
    + "".join(f'<Label value="{name}"/>' for name in NAMES)
    + '</RectangleLabels><BrushLabels name="mask" toName="image"><Label value="thing"/></BrushLabels></View>'
)
EXPLAINED_CONFIG = (
    '<View><Image name="image" value="$image"/><Text name="text" value="$text"/>'
    '<Choices name="topic" toName="image"><Choice value="pump"/><Choice value="valve"/></Choices>'
    '<Rating name="stars" toName="image"/></View>'
)
EXPLAINED_TASK = 1
SENTENCES = (
    "The pump in hall 3 leaks at its lower seal since Monday, and the valve beside it is dry.",
    "A valve of the return line cannot be closed any more.",
    "New pump delivered without its gasket; please send one.",
    "The valve hisses when the pump starts.",
)
SPACE = "fake one"


def write(store: Store) -> None:
    """Write projects 3, 4 and 5, and a bulk run of project 3 that goes on."""
    with store.write() as session:
        for number, config in ((BOXES, BOX_CONFIG), (EXPLAINED, EXPLAINED_CONFIG), (NEW, page_history.CONFIG)):
            session.add(
                Project(
                    id=number,
                    label_config=config,
                    label_studio_url=page_history.ADDRESS,
                    hostname=page_history.ADDRESS,
                    live_number=2 if number == BOXES else 0,
                )
            )
        session.flush()
        session.add_all([_version(1, 0, 0.41, 0.22), _version(2, 1, 0.63, 0.41)])
        session.add_all(_scenes())
        session.add(
            BulkRun(
                project_id=BOXES,
                state=RunState.RUNNING,
                kind=BulkRunKind.INDEX,
                reason="lorabel index",
                only_unlabeled=False,
                total=840,
                done=312,
                created_at=now() - timedelta(minutes=3),
                started_at=now() - timedelta(minutes=3),
                heartbeat_at=now() + timedelta(days=1),
            )
        )
        session.add_all(_explained())
    _embed(store)


def _version(number: int, parent: int, value: float, live: float) -> ModelVersion:
    state = VersionState.LIVE if number == 2 else VersionState.RETIRED
    row = page_history.version(number, parent, state, 0.9, 0.8)
    row.project_id, row.run_id, row.adapters = BOXES, None, {"box": f"p{BOXES}.v{number}/box"}
    row.base_models = {"box": "hf-hub:base"}
    row.metrics = {
        "candidate": {"box": {"tasks": SCENES, "mAP": value, "mAP50": value + 0.2}},
        "live": {"box": {"tasks": SCENES, "mAP": live, "mAP50": live + 0.2}},
        "primary": {"box": "mAP"},
        "decision": f"box: mAP {value:.3f} is better than live's {live:.3f} on {SCENES} held-out tasks",
    }
    return row


def _scenes() -> list[Annotation | TaskOutcome]:
    """Annotated scenes. The second version finds what the first overlooks; in each sixth it is the other way."""
    rows: list[Annotation | TaskOutcome] = []
    pairs = [tuple(name.split()) for name in NAMES]
    drawn = random_scenes(3, SIZE, is_unseen=None, pairs=pairs)  # type: ignore[arg-type]
    scenes = [scene for scene in islice(drawn, 4 * SCENES) if len(scene.things) >= 3][:SCENES]
    for number, scene in enumerate(scenes):
        task_id, few, all_of_them = 3001 + number, _boxes(scene, 0.05)[1:], _boxes(scene, 0.01)
        is_worse = number % 6 == 0
        rows.append(
            Annotation(
                project_id=BOXES,
                id=3001 + number,
                task_id=task_id,
                task_data={"image": _address(scene)},
                result=[*_boxes(scene, 0.0), *_masks(scene, 0)],
                updated_at=now() - timedelta(minutes=number),
            )
        )
        rows += [
            TaskOutcome(
                project_id=BOXES,
                number=2,
                from_name=tag,
                task_id=task_id,
                value=0.4 if is_worse else 0.95,
                live_value=0.95 if is_worse else 0.6,
                result=less if is_worse else more,
                live_result=more if is_worse else less,
            )
            for tag, less, more in (("box", few, all_of_them), ("mask", _masks(scene, 12), _masks(scene, 1)))
        ]
    return rows


def _boxes(scene: Scene, shift: float) -> list[dict[str, Any]]:
    """A box around each thing, moved by a share of the picture."""
    return [_box(thing, shift) for thing in scene.things]


def _box(thing: Thing, shift: float) -> dict[str, Any]:
    left, top, right, bottom = thing.corners
    moved: Corners = (left + shift, top + shift / 2, min(1.0, right + shift), min(1.0, bottom + shift / 2))
    labels = {"rectanglelabels": [f"{thing.colour} {thing.shape}"]}
    return dict(image_region("box", "image", "rectanglelabels", moved, SIZE, labels))


def _masks(scene: Scene, moved_px: int) -> list[dict[str, Any]]:
    """A mask of the inside of each thing's box, moved to the right, as an ellipse with a hole."""
    width, height = SIZE
    rows, columns = np.mgrid[:height, :width] + 0.5
    masks = []
    for thing in scene.things:
        left, top, right, bottom = (
            share * side for share, side in zip(thing.corners, (*SIZE, *SIZE), strict=True)
        )
        across = (columns - moved_px - (left + right) / 2) / (right - left) * 2
        down = (rows - (top + bottom) / 2) / (bottom - top) * 2
        distance = np.hypot(across, down)
        rle = encode(runs_of((distance < 1) & (distance > 0.4)))
        value = {"format": "rle", "rle": rle, "brushlabels": ["thing"]}
        masks.append(dict(picture_region("mask", "image", "brushlabels", SIZE, value)))
    return masks


def _address(scene: Scene) -> str:
    return f"data:image/png;base64,{base64.b64encode(png(scene)).decode()}"


def _explained() -> list[Annotation]:
    return [
        Annotation(
            project_id=EXPLAINED,
            id=4001 + number,
            task_id=EXPLAINED_TASK + number,
            task_data={"image": page_history.picture(page_history.LABELS[number % 3]), "text": sentence},
            result=[
                {
                    "from_name": "topic",
                    "to_name": "image",
                    "type": "choices",
                    "value": {"choices": ["pump" if "pump" in sentence else "valve"]},
                }
            ],
            updated_at=now() - timedelta(minutes=number),
        )
        for number, sentence in enumerate(SENTENCES)
    ]


def _embed(store: Store) -> None:
    """Give the tasks of project 4 vectors that are alike."""
    inputs = {
        EXPLAINED_TASK + number: EmbedInput(contents=(Content(modality=Modality.TEXT, text=sentence),))
        for number, sentence in enumerate(SENTENCES)
    }
    vectors = {}
    for number, task_id in enumerate(inputs):
        vector = np.array([1.0, 0.1 * number, 0.0, 0.0])
        float16 = (vector / np.linalg.norm(vector)).astype("<f2").tobytes()
        vectors[task_id] = TaskVector(SPACE, float16)
    task_embeddings.write(store, EXPLAINED, inputs, vectors)
