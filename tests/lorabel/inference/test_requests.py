from time import monotonic
from types import SimpleNamespace
from typing import Any, cast

import pytest

from lorabel.contracts import LabelScores
from lorabel.inference.messages import Priority, RowResult
from lorabel.inference.requests import PredictionCaller, Question, ask
from lorabel.problems.base import Prediction
from lorabel.problems.binding import bind

TREE = """<View><Text name="t" value="$t"/><Taxonomy name="code" toName="t">
  <Choice value="a"><Choice value="x"/><Choice value="y"/><Choice value="z"/></Choice>
  <Choice value="b"/></Taxonomy></View>"""
DATA = {"t": "It leaks."}


def predicted(temperature: float) -> Prediction:
    (binding,) = bind(TREE).bindings
    output = LabelScores(probabilities=(0.9, 0.55, 0.25, 0.2, 0.1)).model_dump()
    client = SimpleNamespace(predict=lambda *_: [RowResult(output=output)])
    caller = PredictionCaller(cast(Any, client), 1, Priority.BULK, monotonic() + 10)
    (found,) = ask(caller, [Question(binding, DATA, binding.model_input(DATA), None, temperature)])
    assert isinstance(found, Prediction)
    return found


@pytest.mark.parametrize("temperature", [0.2, 20.0])
def test_calibration_changes_how_sure_a_prediction_is_and_never_what_it_is(temperature: float) -> None:
    plain, calibrated = predicted(1.0), predicted(temperature)
    assert plain.regions[0]["value"] == {"taxonomy": [["a", "x"]]}
    assert calibrated.regions == plain.regions
    assert calibrated.score != plain.score
