from time import monotonic
from types import SimpleNamespace
from typing import Any, cast

import pytest

from lorabel.database import projects
from lorabel.database.store import Store
from lorabel.database.tables import Annotation
from lorabel.inference.begun_tracks import results_to_go_on_with
from lorabel.inference.messages import PredictRow, Priority, RowResult
from lorabel.inference.prediction import ProjectModel, predict
from lorabel.inference.requests import PredictionCaller
from lorabel.problems.binding import bind
from lorabel.settings import Settings
from lorabel.track_contracts import Tracks

CONFIG = """<View><Labels name="label" toName="video"><Label value="Car"/></Labels>
  <Video name="video" value="$video"/><VideoRectangle name="box" toName="video"/></View>"""
PICTURES = """<View><Image name="i" value="$video"/><RectangleLabels name="label" toName="i">
  <Label value="Car"/></RectangleLabels></View>"""
TRACKING = Settings(models={"tracker": "local-dir:there"})


def drawn(x: int) -> list[dict[str, Any]]:
    box = {"frame": 3, "x": x, "y": 10, "width": 20, "height": 20, "rotation": 0, "enabled": True}
    value = {"framesCount": 10, "duration": 1.0, "sequence": [box], "labels": ["Car"]}
    return [{"id": "r", "from_name": "box", "to_name": "video", "type": "videorectangle", "value": value}]


def model(settings: Settings, label_config: str = CONFIG) -> ProjectModel:
    return ProjectModel(1, "p1.v0", {}, {}, {}, bind(label_config), settings)


@pytest.fixture
def annotated(store: Store) -> Store:
    projects.upsert(store, 1, label_config=CONFIG)
    with store.write() as session:
        for number, (task_id, x, changed) in enumerate(
            [(7, 0, {}), (7, 10, {"is_deleted": True}), (7, 20, {"was_cancelled": True}), (7, 30, {}), (8, 40, {})]
        ):
            session.add(Annotation(id=number, project_id=1, task_id=task_id, result=drawn(x), **changed))
        session.add(Annotation(id=9, project_id=2, task_id=7, result=drawn(50)))
        session.add(Annotation(id=10, project_id=1, task_id=8, result=None))
    return store


def test_results_are_those_of_annotations_that_count_in_the_order_of_the_tasks(annotated: Store) -> None:
    results = results_to_go_on_with(annotated, model(TRACKING), [8, 6, 7])
    assert results == [[drawn(40)], [], [drawn(0), drawn(30)]]


def test_nothing_is_read_without_the_setting_or_for_other_questions(annotated: Store) -> None:
    assert results_to_go_on_with(annotated, model(Settings(models={})), [7, 8]) == []
    assert results_to_go_on_with(annotated, model(TRACKING, PICTURES), [7, 8]) == []


def test_the_model_server_is_asked_to_follow_what_was_drawn_in_each_task(annotated: Store) -> None:
    rows: list[PredictRow] = []

    def answer(asked: list[PredictRow], *_: Any) -> list[RowResult]:
        rows.extend(asked)
        return [RowResult(output=Tracks(tracks=(), frames=10, length_s=1.0).model_dump())] * len(asked)

    caller = PredictionCaller(cast(Any, SimpleNamespace(predict=answer)), 1, Priority.BULK, monotonic() + 10)
    tasks = [{"video": "http://v.test/a.mp4"}, {"video": "http://v.test/b.mp4"}]
    results = results_to_go_on_with(annotated, model(TRACKING), [6, 7])
    predict(model(TRACKING), tasks, lambda media: media, caller, results)
    predict(model(TRACKING), tasks, lambda media: media, caller)
    assert [len(row.input["begun"]) for row in rows] == [0, 2, 0, 0]
    assert [track["keyframes"][0]["corners"][0] for track in rows[1].input["begun"]] == [0.0, 0.3]
