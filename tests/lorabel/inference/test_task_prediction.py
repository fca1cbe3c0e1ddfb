"""Rules on the merged answers of a task: what annotators see decides, and what hangs on a removed answer goes."""

from collections.abc import Mapping

from lorabel.inference.requests import Unreadable
from lorabel.inference.task_prediction import TaskPrediction, merge_ruled
from lorabel.labeling.image_regions import image_region
from lorabel.labeling.label_config import RELATIONS_NAME
from lorabel.labeling.regions import Region, choices, relation
from lorabel.labeling.rule_binding import require_fit
from lorabel.labeling.rule_file import read_rules
from lorabel.labeling.rules import NO_RULES
from lorabel.problems.base import Prediction
from lorabel.problems.binding import bind

CONFIG = """<View><Image name="image" value="$image"/>
  <RectangleLabels name="box" toName="image"><Label value="Car"/><Label value="Dog"/></RectangleLabels>
  <Choices name="state" toName="image" perRegion="true"><Choice value="new"/><Choice value="old"/></Choices>
  <Relations><Relation value="near"/></Relations>
  <Choices name="kinds" toName="image" choice="multiple"><Choice value="day"/><Choice value="night"/></Choices>
  <Choices name="light" toName="image" visibleWhen="choice-selected" whenTagName="kinds" whenChoiceValue="night">
    <Choice value="lamp"/><Choice value="moon"/></Choices></View>"""
BOUND = bind(CONFIG)


def ruled(file: str, answers: Mapping[str, Prediction | Unreadable]) -> TaskPrediction:
    rules = require_fit(read_rules(file), BOUND.config)
    return merge_ruled(1, BOUND, rules, dict(answers), {})


def box(id_: str, label: str) -> Region:
    place = (0.1, 0.1, 0.2, 0.2)
    return {
        **image_region("box", "image", "rectanglelabels", place, (100, 100), {"rectanglelabels": [label]}),
        "id": id_,
    }


def test_the_label_that_the_model_finds_likelier_stays_in_a_choice_of_several() -> None:
    both = choices("kinds", "image", ["day", "night"])
    file = '[[exclusive]]\nname = "one"\nlabels = ["day", "night"]'
    answer = Prediction([both], 0.8, 0.5, {"day": 0.6, "night": 0.9})
    prediction = ruled(file, {"kinds": answer})
    assert prediction.regions == [choices("kinds", "image", ["night"])]
    assert (prediction.score, prediction.margin) == (0.8, 0.5), "the model is as sure as before"
    assert answer.regions == [both], "the answer itself was changed"


def test_what_is_hidden_counts_in_no_rule_and_goes_with_what_showed_it() -> None:
    lamp = choices("light", "image", ["lamp"])
    file = '[[needs]]\nname = "n"\nlabel = "day"\nneeds = "lamp"'
    hidden = ruled(
        file, {"kinds": Prediction([choices("kinds", "image", ["day"])], 0.9), "light": Prediction([lamp], 0.9)}
    )
    assert hidden.regions == [], "a lamp that nobody sees let day stay"
    file = '[[exclusive]]\nname = "one"\nlabels = ["day", "night"]'
    both = Prediction([choices("kinds", "image", ["day", "night"])], 0.9, None, {"day": 0.9, "night": 0.6})
    gone = ruled(file, {"kinds": both, "light": Prediction([lamp], 0.9)})
    assert gone.regions == [choices("kinds", "image", ["day"])]
    assert [removal.what for removal in gone.removals] == ["night"], "no rule removes the lamp"


def test_answers_and_relations_of_a_removed_region_go() -> None:
    place = {key: value for key, value in box("a", "Car")["value"].items() if key != "rectanglelabels"}
    states = [
        {**choices("state", "image", [name]), "id": id_, "value": {**place, "choices": [name]}}
        for id_, name in (("a", "new"), ("b", "old"))
    ]
    answers = {
        "box": Prediction([{**box("a", "Car"), "score": 0.4}, {**box("b", "Dog"), "score": 0.9}], 0.6),
        "state": Prediction(states, 0.9),
        RELATIONS_NAME: Prediction([relation("a", "b", "right", ["near"])], 0.9),
    }
    file = '[[exclusive]]\nname = "one"\nlabels = ["Car", "Dog"]'
    prediction = ruled(file, answers)
    assert [(region["from_name"], region["id"]) for region in prediction.regions] == [("box", "b"), ("state", "b")]
    assert [removal.what for removal in prediction.removals] == ["Car"]


def test_a_task_that_cannot_be_read_stays_so() -> None:
    reason = Unreadable("broken", is_permanent=True)
    file = '[[exclusive]]\nname = "one"\nlabels = ["Car", "Dog"]'
    prediction = ruled(file, {"box": reason, "kinds": Prediction([choices("kinds", "image", ["day"])], 0.9)})
    assert prediction.unreadable == reason
    assert prediction.regions == [choices("kinds", "image", ["day"])]


def test_nothing_is_shown_that_was_hidden_and_the_score_is_that_of_before() -> None:
    config = CONFIG.replace('"choice-selected"', '"choice-unselected"')
    bound = bind(config)
    rules = require_fit(
        read_rules('[[field]]\nname = "f"\nfield = "c"\nis = "DE"\nforbidden = ["night"]'), bound.config
    )
    answers: dict[str, Prediction | Unreadable] = {
        "kinds": Prediction([choices("kinds", "image", ["night"])], 0.9, 0.8),
        "light": Prediction([choices("light", "image", ["lamp"])], 0.1, 0.1),
    }
    prediction = merge_ruled(1, bound, rules, answers, {"c": "DE"})
    assert (prediction.regions, prediction.score, prediction.margin) == ([], 0.9, 0.8)


def test_regions_that_do_not_fit_are_counted_as_without_rules() -> None:
    """The relation hangs in the air after its region was removed, which is no fault of the model."""
    file = '[[field]]\nname = "f"\nfield = "c"\nis = "DE"\nforbidden = ["Dog"]'
    rules = require_fit(read_rules(file), BOUND.config)
    answers: dict[str, Prediction | Unreadable] = {
        "box": Prediction([box("a", "Car"), box("b", "Dog"), box("c", "Cow")], 0.9),
        RELATIONS_NAME: Prediction([relation("a", "b", "right", ["near"])], 0.9),
    }
    without = merge_ruled(1, BOUND, NO_RULES, dict(answers), {"c": "DE"})
    ruled_by = merge_ruled(1, BOUND, rules, dict(answers), {"c": "DE"})
    assert [region["id"] for region in ruled_by.regions] == ["a"]
    assert ruled_by.dropped_regions == without.dropped_regions == 1
