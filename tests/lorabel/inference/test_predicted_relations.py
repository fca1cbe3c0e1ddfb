"""Relations are predicted between the regions that are predicted for the same task, and name their ids."""

from collections.abc import Sequence
from time import monotonic
from typing import Any, cast

from lorabel.contracts import Contract, Span, SpanScores
from lorabel.errors import ModelServerError
from lorabel.inference.messages import PredictRow, Priority, RowResult
from lorabel.inference.prediction import ProjectModel, predict, predict_prompted
from lorabel.inference.requests import PredictionCaller
from lorabel.inference.task_prediction import TaskPrediction, merge
from lorabel.labeling.regions import Region, relation
from lorabel.problems.base import Prediction
from lorabel.problems.binding import bind
from lorabel.relation_contracts import Relation, Relations
from lorabel.settings import Settings
from lorabel.space_contracts import Box, Boxes
from tests.related_sentences import LABEL_CONFIG

TEXT = "Ada owns a boat, Bob a car"
SPANS = ((0, 3, 0), (11, 15, 1), (17, 20, 0), (23, 26, 1))


class TwoStages:
    """A model server that finds spans, and that each first span of two owns the second."""

    def __init__(self, spans: Sequence[tuple[int, int, int]] = SPANS, fails_from: int = 9) -> None:
        self.spans, self.fails_from = spans, fails_from
        self.requests: list[list[PredictRow]] = []

    def predict(self, rows: Sequence[PredictRow], *_: Any) -> list[RowResult]:
        self.requests.append(list(rows))
        if len(self.requests) > self.fails_from:
            raise ModelServerError("it is gone")
        return [RowResult(output=self.answer(row).model_dump()) for row in rows]

    def answer(self, row: PredictRow) -> Contract:
        if row.kind == "spans":
            return SpanScores(spans=tuple(Span(start=a, end=b, label=label) for a, b, label in self.spans))
        if row.kind == "boxes":
            places = ((0.1, 0.1, 0.2, 0.2), (0.5, 0.1, 0.6, 0.2))
            return Boxes(boxes=tuple(Box(corners=place, label=0) for place in places), width=9, height=9)
        pairs = range(0, len(row.input["regions"]) - 1, 2)
        return Relations(relations=tuple(Relation(first=first, second=first + 1) for first in pairs))


def predicted(server: TwoStages, label_config: str = LABEL_CONFIG) -> TaskPrediction:
    model = ProjectModel(1, "p1.v0", {}, {}, {}, bind(label_config), Settings())
    asked_by = PredictionCaller(cast(Any, server), 1, Priority.BULK, monotonic() + 10)
    (prediction,) = predict(model, [{"text": TEXT}], lambda media: media, asked_by)
    return prediction


def links(regions: Sequence[Region]) -> list[tuple[str, str]]:
    """The texts of the two spans of each relation."""
    texts = {region.get("id"): region["value"]["text"] for region in regions if region["type"] != "relation"}
    return [(texts[item["from_id"]], texts[item["to_id"]]) for item in regions if item["type"] == "relation"]


def test_relations_are_asked_about_between_the_predicted_spans() -> None:
    server = TwoStages()
    prediction = predicted(server)
    assert [[row.kind for row in rows] for rows in server.requests] == [["spans"], ["relations"]]
    assert links(prediction.regions) == [("Ada", "boat"), ("Bob", "car")]
    assert prediction.dropped_regions == 0 and prediction.unreadable is None


def test_the_same_prediction_has_the_same_ids_and_each_region_one_of_its_own() -> None:
    first, second = (predicted(TwoStages()).regions for _ in range(2))
    assert first == second
    assert len({region["id"] for region in first if region["type"] != "relation"}) == len(SPANS)


def test_one_span_is_related_to_nothing() -> None:
    server = TwoStages(SPANS[:1])
    prediction = predicted(server)
    assert len(server.requests) == 1 and len(prediction.regions) == 1


def test_the_spans_are_predicted_where_the_question_about_relations_fails() -> None:
    prediction = predicted(TwoStages(fails_from=1))
    assert len(prediction.regions) == len(SPANS) and links(prediction.regions) == []
    assert prediction.unreadable is not None and not prediction.unreadable.is_permanent


def test_relations_of_spans_that_the_editor_does_not_show_are_left_out() -> None:
    """A relation to a region that is not there would keep the editor from showing the whole prediction."""
    bound = bind(LABEL_CONFIG)
    spans = predicted(TwoStages()).regions[: len(SPANS)]
    ids = [region["id"] for region in spans]
    wrong = {**spans[1], "value": {**spans[1]["value"], "labels": ["Place"]}}
    said = [relation(ids[0], ids[1], "right", ["owns"]), relation(ids[2], ids[3], "right", ["owns"])]
    answers = {
        "entity": Prediction([spans[0], wrong, *spans[2:]], 1.0),
        "<Relations>": Prediction(said, 1.0),
    }
    merged = merge(1, bound, answers)
    assert links(merged.regions) == [("Bob", "car")]


def test_a_relation_with_a_label_that_is_gone_is_left_out() -> None:
    bound = bind(LABEL_CONFIG)
    spans = predicted(TwoStages()).regions[: len(SPANS)]
    said = [relation(spans[0]["id"], spans[1]["id"], "right", ["stole"])]
    merged = merge(1, bound, {"entity": Prediction(spans, 1.0), "<Relations>": Prediction(said, 1.0)})
    assert links(merged.regions) == [] and merged.dropped_regions == 1


def test_a_smart_tool_gets_regions_without_relations() -> None:
    config = (
        '<View><Image name="image" value="$image"/><Relations><Relation value="on"/></Relations>'
        '<RectangleLabels name="box" toName="image" smart="true"><Label value="cup"/></RectangleLabels></View>'
    )
    model = ProjectModel(1, "p1.v0", {}, {}, {}, bind(config), Settings())
    asked_by = PredictionCaller(cast(Any, TwoStages()), 1, Priority.BULK, monotonic() + 10)
    data = {"image": "https://example.org/1.png"}
    (both,) = predict(model, [data], lambda media: media, asked_by)
    assert [region["type"] for region in both.regions] == ["rectanglelabels", "rectanglelabels", "relation"]
    drawn = {key: both.regions[0][key] for key in ("from_name", "to_name", "type", "value")}
    context = [replace_id(drawn, "a"), replace_id(drawn, "b")]
    answer = predict_prompted(model, data, context, lambda media: media, asked_by)
    assert answer is not None and {region["type"] for region in answer.regions} == {"rectanglelabels"}


def replace_id(region: Region, id_: str) -> Region:
    return {**region, "id": id_}
