"""The second project of the pages' demo: boxes around parts in scenes, which versions find better and better."""

import random
from collections.abc import Sequence
from datetime import timedelta
from itertools import islice
from typing import Any

from lorabel.database.project_keys import LabelStudioId
from lorabel.database.store import Store
from lorabel.database.tables import (
    Annotation,
    ModelVersion,
    Project,
    RunState,
    TaskOutcome,
    TrainingRun,
    VersionState,
    now,
)
from lorabel.demo.project import upload_project
from lorabel.demo.scene_project import COLOURS, DRAWN, GRADE, right_label
from lorabel.demo.scenes import Corners, Scene, Thing, png, random_scenes
from lorabel.label_studio.client import LabelStudio
from lorabel.label_studio.records import AnnotatedTask
from lorabel.labeling.image_regions import image_region
from lorabel.labeling.regions import Region

TITLE = "Parts in the tray"
SIZE = (320, 240)
SCENES, ANNOTATED = 40, 34
LABEL_CONFIG = (
    '<View><Image name="tray" value="$image"/><RectangleLabels name="part" toName="tray">'
    + "".join(f'<Label value="{name}" background="{colour}"/>' for name, colour in COLOURS.items())
    + "</RectangleLabels></View>"
)
VERSIONS = (0.34, 0.52, 0.61, 0.78)
RUN_IDS_FROM = 100


def scenes() -> list[Scene]:
    """The trays, always the same and in the same order."""
    return list(islice(random_scenes(11, SIZE, pairs=DRAWN), SCENES))


def create_project(client: LabelStudio) -> LabelStudioId:
    """Create the project in Label Studio, with its pictures in the order of `scenes`."""
    files = [(f"tray-{number:03d}.png", png(scene), "image/png") for number, scene in enumerate(scenes())]
    return upload_project(client, TITLE, LABEL_CONFIG, files)


def write(store: Store, project_id: int, tasks: Sequence[AnnotatedTask]) -> None:
    """Write versions v1 to v4, annotations, and what v4 and v3 answered to the annotated tasks."""
    chance = random.Random(3)
    drawn = list(zip(tasks, scenes(), strict=True))[:ANNOTATED]
    with store.write() as session:
        session.get_one(Project, project_id).live_number = len(VERSIONS)
        for number in range(1, len(VERSIONS) + 1):
            session.add(_run(project_id, number))
            session.flush()
            session.add(_version(project_id, number))
        for number, (task, scene) in enumerate(drawn):
            at = now() - timedelta(hours=3 * (ANNOTATED - number), minutes=7)
            right = [_box(thing, 0.0) for thing in scene.things if right_label(thing) is not None]
            session.add(
                Annotation(
                    project_id=project_id,
                    id=5000 + number,
                    task_id=task.task_id,
                    task_data=task.data,
                    result=right,
                    completed_by=2 + number % 2,
                    lead_time_s=round(chance.uniform(8, 25), 1),
                    updated_at=at,
                    received_at=at,
                )
            )
            session.add(_outcome(project_id, task.task_id, scene, right))


def _outcome(project_id: int, task_id: int, scene: Scene, right: Sequence[Region]) -> TaskOutcome:
    """The version before overlooks what is of GRADE; the last one finds it, and takes a red cross for it."""
    found = [_box(thing, 0.012) for thing in scene.things if right_label(thing) not in (None, GRADE)]
    grades = [_box(thing, 0.015) for thing in scene.things if right_label(thing) == GRADE]
    wrong = [
        _box(thing, 0.02, GRADE) for thing in scene.things if (thing.colour, thing.shape) == ("red", "cross")
    ][:1]
    before, after = found, [*found, *grades, *wrong]
    return TaskOutcome(
        project_id=project_id,
        number=len(VERSIONS),
        from_name="part",
        task_id=task_id,
        value=_value(after, right),
        live_value=_value(before, right),
        result=after,
        live_result=before,
    )


def _value(found: Sequence[Region], right: Sequence[Region]) -> float:
    """F1 of the boxes: of the drawn answers it is plain which are right."""
    if not found and not right:
        return 1.0
    hits = min(len(found), len(right))
    return round(2 * hits / (len(found) + len(right)), 3) if hits else 0.0


def _box(thing: Thing, shift: float, label: str | None = None) -> Region:
    left, top, right, bottom = thing.corners
    corners: Corners = (left + shift, top + shift, min(1.0, right + shift), min(1.0, bottom + shift))
    labels = {"rectanglelabels": [label or right_label(thing)]}
    return image_region("part", "tray", "rectanglelabels", corners, SIZE, labels)


def _run(project_id: int, number: int) -> TrainingRun:
    at = now() - timedelta(hours=30 * (len(VERSIONS) - number) + 4)
    return TrainingRun(
        id=RUN_IDS_FROM + number,
        project_id=project_id,
        state=RunState.FINISHED,
        reason="8 new annotations",
        step=60,
        steps=60,
        loss=0.4,
        decision="made a version",
        version_number=number,
        config={"rank": 8, "learning_rate": 0.0005, "steps": 60},
        created_at=at,
        started_at=at,
        finished_at=at + timedelta(seconds=140),
    )


def _version(project_id: int, number: int) -> ModelVersion:
    value, live = VERSIONS[number - 1], VERSIONS[number - 2] if number > 1 else 0.21
    scores: list[dict[str, Any]] = [
        {"tasks": ANNOTATED, "mAP": mean, "mAP50": round(min(1.0, mean + 0.17), 3)} for mean in (value, live)
    ]
    at = now() - timedelta(hours=30 * (len(VERSIONS) - number) + 4)
    return ModelVersion(
        project_id=project_id,
        number=number,
        parent=number - 1,
        state=VersionState.LIVE if number == len(VERSIONS) else VersionState.RETIRED,
        base_models={"part": "lorabel/demo/detector"},
        adapters={},
        metrics={
            "candidate": {"part": scores[0]},
            "live": {"part": scores[1]},
            "primary": {"part": "mAP"},
            "decision": f"part: mAP {value:.3f} is better than live's {live:.3f} on {ANNOTATED} held-out tasks",
        },
        trained_on=list(range(5000, 5000 + 8 * number)),
        run_id=RUN_IDS_FROM + number,
        created_at=at,
        promoted_at=at,
    )
