from datetime import UTC, datetime
from time import monotonic
from types import SimpleNamespace
from typing import Any, cast

import pytest

from lorabel.database import projects
from lorabel.database.store import Store
from lorabel.database.tables import Annotation
from lorabel.inference.begun import is_begun_since, results_to_go_on_with
from lorabel.inference.messages import PredictRow, Priority, RowResult
from lorabel.inference.prediction import ProjectModel, predict
from lorabel.inference.requests import PredictionCaller
from lorabel.labeling.regions import about_segment, sound_segment, textarea
from lorabel.problems.binding import bind
from lorabel.settings import Settings
from lorabel.text_contracts import SegmentTranscripts, WrittenText
from lorabel.time_contracts import Segment, SegmentScores
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


@pytest.mark.parametrize(
    ("changed", "is_begun"),
    [
        ({}, True),
        ({"updated_at": "2026-11-28T09:59:59Z"}, False),
        ({"was_cancelled": True}, False),
        ({"result": []}, False),
        ({"result": None}, False),
        ({"result": [{"nonsense": 1}]}, False),
    ],
)
def test_a_box_that_was_drawn_after_the_prediction_is_begun_since(changed: dict[str, Any], is_begun: bool) -> None:
    predicted_at = datetime(2026, 11, 28, 10, tzinfo=UTC)
    annotation = {"result": drawn(0), "was_cancelled": False, "updated_at": "2026-11-28T10:00:01.5Z", **changed}
    data = {"video": "http://v.test/a.mp4"}
    assert is_begun_since(model(TRACKING), data, [annotation], predicted_at) == is_begun
    assert not is_begun_since(model(Settings(models={})), data, [annotation], predicted_at)
    assert not is_begun_since(model(TRACKING), {}, [annotation], predicted_at), "there is no video"


SPEECH = """<View><Labels name="label" toName="audio"><Label value="Speech"/><Label value="Noise"/></Labels>
  <Audio name="audio" value="$audio"/>
  <TextArea name="text" toName="audio" perRegion="true" whenLabelValue="Speech"/></View>"""


def listening(asked: list[PredictRow], *_: Any) -> list[RowResult]:
    """A model server that finds speech and noise in every sound, and hears the start of each segment."""
    found = (Segment(start_s=0, end_s=1, label=0), Segment(start_s=2, end_s=3, label=1))
    segments = SegmentScores(segments=found, length_s=9.0)
    return [
        RowResult(output=segments.model_dump())
        if row.kind == "segments"
        else RowResult(
            output=SegmentTranscripts(
                answers=tuple(
                    WrittenText(text=f"at {start}", probability=0.5) for start, _ in row.input["segments"]
                )
            ).model_dump()
        )
        for row in asked
    ]


def test_segments_are_found_and_then_written_down_where_their_label_asks_for_a_text() -> None:
    caller = PredictionCaller(cast(Any, SimpleNamespace(predict=listening)), 1, Priority.BULK, monotonic() + 10)
    (prediction,) = predict(
        model(Settings(), SPEECH), [{"audio": "http://a.test/a.wav"}], lambda media: media, caller
    )
    speech, noise, text = prediction.regions
    assert [region["value"]["labels"] for region in (speech, noise)] == [["Speech"], ["Noise"]]
    assert text["id"] == speech["id"] != noise["id"] and text["value"]["text"] == ["at 0.0"]
    assert text["original_length"] == 9.0 and prediction.dropped_regions == 0


def test_drawn_segments_without_a_text_are_predicted_with_one_in_place_of_what_is_found(store: Store) -> None:
    projects.upsert(store, 1, label_config=SPEECH)
    first, second = (
        {**sound_segment("label", "audio", span, 9.0, ["Speech"]), "id": id_}
        for id_, span in (("a", (4.0, 5.0)), ("b", (6.0, 7.0)))
    )
    given = about_segment(first, textarea("text", "audio", ["Hello."]))
    with store.write() as session:
        session.add(Annotation(id=1, project_id=1, task_id=7, result=[first, given, second]))
        session.add(Annotation(id=2, project_id=1, task_id=8, result=[first, given]))
    results = results_to_go_on_with(store, model(Settings(models={}), SPEECH), [7, 8])
    assert [len(of_task) for of_task in results] == [1, 1]
    caller = PredictionCaller(cast(Any, SimpleNamespace(predict=listening)), 1, Priority.BULK, monotonic() + 10)
    tasks = [{"audio": "http://a.test/a.wav"}, {"audio": "http://a.test/b.wav"}]
    begun, complete = predict(model(Settings(), SPEECH), tasks, lambda media: media, caller, results)
    assert begun.regions[:3] == [first, second, given]
    assert begun.regions[3]["id"] == "b" and begun.regions[3]["value"]["text"] == ["at 6.0"]
    assert [region["value"]["start"] for region in complete.regions] == [0.0, 2.0, 0.0]
