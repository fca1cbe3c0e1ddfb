from time import monotonic
from types import SimpleNamespace
from typing import Any, cast

import pytest

from lorabel.contracts import LabelScores
from lorabel.database import projects
from lorabel.database.store import Store
from lorabel.inference.messages import Priority, RowResult
from lorabel.inference.prediction import ProjectModel, Question, ask, predict
from lorabel.inference.requests import PredictionCaller, Unreadable
from lorabel.problems.base import Prediction
from lorabel.problems.binding import bind
from lorabel.settings import Settings
from lorabel.space_contracts import Box, Boxes

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
