from collections.abc import Sequence
from math import exp
from time import monotonic
from types import SimpleNamespace
from typing import Any, cast

import pytest

from lorabel.contracts import Contract, Estimate, LabelScores
from lorabel.database import projects
from lorabel.database.store import Store
from lorabel.errors import ModelServerError
from lorabel.inference.messages import PredictRow, Priority, RowResult
from lorabel.inference.prediction import ProjectModel, ask, predict
from lorabel.inference.question import Question
from lorabel.inference.requests import PredictionCaller, Unreadable
from lorabel.inference.task_prediction import TaskPrediction
from lorabel.problems.base import Prediction
from lorabel.problems.binding import bind
from lorabel.region_contracts import EachEstimate, EachLabelScores
from lorabel.settings import Settings
from lorabel.space_contracts import Box, Boxes
from lorabel.text_contracts import WrittenText
from lorabel.track_contracts import Keyframe, Track, Tracks

TAXONOMY = """<View><Text name="t" value="$t"/><Taxonomy name="code" toName="t">
  <Choice value="a"><Choice value="x"/><Choice value="y"/><Choice value="z"/></Choice>
  <Choice value="b"/></Taxonomy></View>"""
DATA = {"t": "It leaks."}
OUTPUT = LabelScores(probabilities=(0.9, 0.55, 0.25, 0.2, 0.1)).model_dump()


PAGES = """<View><HyperText name="t" value="$t"/><Choices name="mood" toName="t">
  <Choice value="a"/><Choice value="b"/></Choices></View>"""


def caller(output: dict[str, Any] = OUTPUT, seconds: float = 10.0) -> PredictionCaller:
    client = SimpleNamespace(predict=lambda rows, *_: [RowResult(output=output)] * len(rows))
    return PredictionCaller(cast(Any, client), 1, Priority.BULK, monotonic() + seconds)


def question(temperature: float) -> Question:
    (binding,) = bind(TAXONOMY).bindings
    return Question(binding, DATA, binding.model_input(DATA), None, temperature=temperature)


def predicted(temperature: float) -> Prediction:
    (answer,) = ask(caller(), [question(temperature)])
    assert isinstance(answer, Prediction)
    return answer


@pytest.mark.parametrize("temperature", [0.2, 20.0])
def test_calibration_changes_the_score_and_not_the_regions(temperature: float) -> None:
    plain, calibrated = predicted(1.0), predicted(temperature)
    assert plain.regions[0]["value"] == {"taxonomy": [["a", "x"]]}
    assert calibrated.regions == plain.regions
    assert calibrated.score != plain.score


def test_answers_are_in_the_order_of_the_questions_when_some_cannot_be_asked() -> None:
    first, second = Unreadable("no text", is_permanent=True), Unreadable("no host", is_permanent=False)
    answers = ask(caller(), [first, question(1.0), second, question(1.0)])
    assert (answers[0], answers[2]) == (first, second)
    assert isinstance(answers[1], Prediction) and isinstance(answers[3], Prediction)


def test_pages_that_take_all_the_time_are_late_and_the_others_are_answered(settings: Settings) -> None:
    """The slow page takes 5 s of the processor, and is refused for good if there is no deadline."""
    slow = {"t": f"<p a='{'&' * 2_000_000}'>"}
    model = ProjectModel(1, "p1.v0", {}, {}, {}, bind(PAGES), settings)
    output = LabelScores(probabilities=(0.9, 0.1)).model_dump()
    tasks = [{"t": "<p>It works."}, *[slow] * 250]
    first, *others = predict(model, tasks, lambda media: media, caller(output, seconds=2.0))
    assert first.unreadable is None and first.regions[0]["value"] == {"choices": ["a"]}
    reasons = [prediction.unreadable for prediction in others]
    assert all(reason is not None and reason.is_late and not reason.is_permanent for reason in reasons)


def test_without_calibration_the_score_has_the_temperature_that_the_model_has_found() -> None:
    tempered = LabelScores(probabilities=(0.9, 0.55, 0.25, 0.2, 0.1), temperature=3.0).model_dump()
    (binding,) = bind(TAXONOMY).bindings
    ours = Question(binding, DATA, binding.model_input(DATA), None)
    ((answer,), (calibrated,)) = (ask(caller(tempered), [ours]), ask(caller(), [question(3.0)]))
    assert answer == calibrated != predicted(1.0)


BOXES = """<View><Image name="i" value="$i"/><RectangleLabels name="b" toName="i"><Label value="x"/>
  </RectangleLabels></View>"""


@pytest.mark.parametrize(("threshold", "expected"), [(None, [0.75, 0.6]), (0.7, [0.75]), (0.2, [0.75, 0.6, 0.25])])
def test_a_threshold_of_the_project_is_for_calibrated_scores_of_boxes(
    threshold: float | None, expected: list[float]
) -> None:
    """A temperature of 2 makes 0.9, 0.69 and 0.1 of the model 0.75, 0.6 and 0.25."""
    boxes = tuple(Box(corners=(0.1, 0.1, 0.4, 0.4), label=0, probability=number) for number in (0.9, 0.6923, 0.1))
    output = Boxes(boxes=boxes, width=100, height=100, threshold=0.3).model_dump()
    (binding,) = bind(BOXES).bindings
    data = {"i": "https://example.org/1.png"}
    asked = Question(binding, data, binding.model_input(data), None, temperature=2.0, threshold=threshold)
    (answer,) = ask(caller(output), [asked])
    assert isinstance(answer, Prediction)
    assert [region["score"] for region in answer.regions] == pytest.approx(expected, abs=1e-3)


TRACKS = """<View><Video name="v" value="$v"/><VideoRectangle name="b" toName="v"/><Labels name="l" toName="v">
  <Label value="x"/></Labels></View>"""


def test_a_threshold_of_the_project_is_for_tracks_above_and_below_the_setting(settings: Settings) -> None:
    tracks = tuple(
        Track(label=0, keyframes=(Keyframe(frame=1, corners=(0.1, 0.1, 0.4, 0.4)),), probability=probability)
        for probability in (0.9, 0.3, 0.1)
    )
    output = Tracks(tracks=tracks, frames=10, length_s=1.0, threshold=0.2).model_dump()
    asked: list[float | None] = []

    def answer(rows: Sequence[PredictRow], *_: Any) -> list[RowResult]:
        asked.extend(row.input["threshold"] for row in rows)
        return [RowResult(output=output)] * len(rows)

    client = PredictionCaller(cast(Any, SimpleNamespace(predict=answer)), 1, Priority.BULK, monotonic() + 10)
    for threshold, shown in ((None, 2), (0.05, 3), (0.5, 1)):
        model = ProjectModel(1, "p1.v0", {}, {}, {}, bind(TRACKS), settings, threshold)
        (prediction,) = predict(model, [{"v": "https://example.org/1.mp4"}], lambda media: media, client)
        assert len(prediction.regions) == shown
    assert asked == [None, 0.05, 0.5]


def test_a_threshold_of_the_project_changes_nothing_where_regions_have_no_scores() -> None:
    (binding,) = bind(TAXONOMY).bindings
    (answer,) = ask(caller(), [Question(binding, DATA, binding.model_input(DATA), None, threshold=0.99)])
    assert isinstance(answer, Prediction) and answer.regions == predicted(1.0).regions


@pytest.mark.parametrize(
    ("extra_params", "expected"),
    [({"detector_threshold": 0.4}, 0.4), ({"detector_threshold": "high"}, None), ({"detector_threshold": 2}, None)]
    + [(None, None), ({"detector_threshold": True}, None)],
)
def test_the_threshold_is_read_from_the_extra_params(
    store: Store, settings: Settings, extra_params: Any, expected: float | None
) -> None:
    projects.upsert(store, 1, label_config=BOXES, extra_params=extra_params)
    with store.read() as session:
        model = ProjectModel.of(session, projects.get(session, 1), settings)
    assert model.threshold == expected


REGIONS = """<View><Image name="i" value="$i"/>
  <RectangleLabels name="b" toName="i"><Label value="car"/><Label value="bus"/></RectangleLabels>
  <Choices name="state" toName="i" perRegion="true" whenLabelValue="car"><Choice value="new"/><Choice value="old"/>
  </Choices><Choices name="light" toName="i"><Choice value="day"/><Choice value="night"/></Choices>
  <Rating name="stars" toName="i" perRegion="true"/></View>"""
PICTURE = {"i": "https://example.org/1.png"}
CAR, BUS = (0.1, 0.1, 0.4, 0.4), (0.5, 0.5, 0.9, 0.8)


class TwoStages:
    """A model server that finds a car and a bus, the unlikely box of a car, and fails from a request on."""

    def __init__(self, fails_from: int = 9, boxes: Sequence[tuple[Any, int, float]] = ()) -> None:
        self.requests: list[list[PredictRow]] = []
        self.fails_from = fails_from
        found = boxes or ((CAR, 0, 0.9), (BUS, 1, 0.8), ((0.0, 0.0, 0.1, 0.1), 0, 0.1))
        boxes_found = tuple(Box(corners=corners, label=label, probability=p) for corners, label, p in found)
        self.boxes = Boxes(boxes=boxes_found, width=100, height=50, threshold=0.5)

    def predict(self, rows: Sequence[PredictRow], *_: Any) -> list[RowResult]:
        self.requests.append(list(rows))
        if len(self.requests) > self.fails_from:
            raise ModelServerError("it is gone")
        return [RowResult(output=self.answer(row).model_dump()) for row in rows]

    def answer(self, row: PredictRow) -> Contract:
        if row.kind == "boxes":
            return self.boxes
        if row.kind == "labels":
            return LabelScores(probabilities=(0.7, 0.3))
        if row.kind == "each_rating":
            return EachEstimate(answers=(Estimate(),) * len(row.input["contents"]))
        is_left = [content["part"]["x"] < 0.5 for content in row.input["contents"]]
        return EachLabelScores(
            answers=tuple(LabelScores(probabilities=(0.2, 0.8) if left else (1.0, 0.0)) for left in is_left)
        )


def predict_regions(server: TwoStages, tasks: Sequence[dict[str, Any]] = (PICTURE,)) -> list[TaskPrediction]:
    model = ProjectModel(1, "p1.v0", {}, {}, {}, bind(REGIONS), Settings())
    asked_by = PredictionCaller(cast(Any, server), 1, Priority.BULK, monotonic() + 10)
    return predict(model, tasks, lambda media: media, asked_by)


def test_predicted_boxes_are_asked_about_and_the_answers_have_their_ids_and_places() -> None:
    server = TwoStages()
    first, second = predict_regions(server, [PICTURE, {"i": "https://example.org/2.png"}])
    assert [[row.kind for row in rows] for rows in server.requests] == [
        ["boxes", "labels"] * 2,
        ["each_labels", "each_rating"] * 2,
    ]
    assert first.regions == second.regions
    by_tag = {name: [r for r in first.regions if r["from_name"] == name] for name in ("b", "state", "light")}
    car, bus = by_tag["b"]
    (state,) = by_tag["state"]
    assert len({car["id"], bus["id"]}) == 2
    assert state["id"] == car["id"], "a bus is not asked about its state (whenLabelValue)"
    assert state["value"] == {**{k: car["value"][k] for k in ("x", "y", "width", "height", "rotation")}} | {
        "choices": ["old"]
    }
    assert (state["original_width"], state["original_height"]) == (100, 50)
    assert "id" not in by_tag["light"][0]
    assert len(first.regions) == 4 and first.is_final and first.dropped_regions == 0


def test_without_boxes_nothing_is_asked_about_them() -> None:
    server = TwoStages(boxes=[(CAR, 0, 0.2)])
    (prediction,) = predict_regions(server)
    assert len(server.requests) == 1
    assert [region["from_name"] for region in prediction.regions] == ["light"]


def test_a_task_is_asked_about_again_if_the_model_server_fails_between_boxes_and_their_answers() -> None:
    (prediction,) = predict_regions(TwoStages(fails_from=1))
    assert prediction.unreadable is not None and not prediction.is_final


def test_answers_about_equal_boxes_of_two_control_tags_have_ids_of_their_own() -> None:
    second = REGIONS.replace(
        "<Choices", '<RectangleLabels name="c" toName="i"><Label value="car"/></RectangleLabels><Choices', 1
    )
    model = ProjectModel(1, "p1.v0", {}, {}, {}, bind(second), Settings())
    caller = PredictionCaller(cast(Any, TwoStages(boxes=[(CAR, 0, 0.9)])), 1, Priority.BULK, monotonic() + 10)
    (prediction,) = predict(model, [PICTURE], lambda media: media, caller)
    ids = {name: [r["id"] for r in prediction.regions if r["from_name"] == name] for name in ("b", "c", "state")}
    assert len({*ids["b"], *ids["c"]}) == 2
    assert sorted(ids["state"]) == sorted([*ids["b"], *ids["c"]])


def test_answers_about_boxes_that_are_not_shown_are_not_shown() -> None:
    boxes, rest = REGIONS.replace(' whenLabelValue="car"', "").split("</RectangleLabels>", 1)
    start = boxes.index("<RectangleLabels")
    hidden = f'<View visibleWhen="choice-selected" whenTagName="light" whenChoiceValue="night">{boxes[start:]}'
    config = f"{boxes[:start]}{hidden}</RectangleLabels></View>{rest}"
    model = ProjectModel(1, "p1.v0", {}, {}, {}, bind(config), Settings())
    caller = PredictionCaller(cast(Any, TwoStages()), 1, Priority.BULK, monotonic() + 10)
    (prediction,) = predict(model, [PICTURE], lambda media: media, caller)
    assert [region["from_name"] for region in prediction.regions] == ["light"]


def test_the_score_of_a_text_is_the_calibrated_probability_that_it_is_right() -> None:
    config = '<View><Text name="t" value="$t"/><TextArea name="sum" toName="t"/></View>'
    (binding,) = bind(config).bindings
    output = WrittenText(text="Leak.", probability=0.8).model_dump()
    asked = Question(binding, DATA, binding.model_input(DATA), None, temperature=2.0, offset=-2.0)
    (answer,) = ask(caller(output), [asked])
    assert isinstance(answer, Prediction)
    # The odds of 0.8 are 4; their square root, times exp(-2).
    odds = 2 * exp(-2)
    assert answer.score == pytest.approx(odds / (1 + odds))
    assert answer.regions[0]["value"] == {"text": ["Leak."]}
