import json
from pathlib import Path

import pytest

from lorabel.contracts import Span, SpanScores, SpanTarget
from lorabel.errors import MissingTargetError
from lorabel.labeling.regions import Region, labels
from lorabel.problems.base import Problem
from lorabel.problems.binding import bind

RECORDINGS = Path(__file__).parents[2] / "data" / "recordings" / "text-ner"
TEXT = {"text": "Zoe\u0301 met 😀 Bob in Łódź."}


def config(control: str = "", text: str = '<Text name="text" value="$text"/>', tag: str = "Labels") -> str:
    names = '<Label value="Person" hint="a human being"/><Label value="City"/>'
    return f'<View><{tag} name="entity" toName="text" {control}>{names}</{tag}>{text}</View>'


def binding() -> Problem:
    (found,) = bind(config()).bindings
    return found


def region(start: int, end: int, *values: str) -> Region:
    place = {"start": start, "end": end, "text": TEXT["text"][start:end]}
    return labels("entity", "text", "labels", place, list(values))


@pytest.mark.parametrize(
    ("tag", "text"),
    [
        ("Labels", '<Text name="text" value="$text"/>'),
        ("Labels", '<HyperText name="text" value="$text"/>'),
        ("HyperTextLabels", '<HyperText name="text" value="$text"/>'),
        ("Labels", '<Paragraphs name="text" value="$text"/>'),
        ("ParagraphLabels", '<Paragraphs name="text" value="$text"/>'),
    ],
)
def test_labels_over_any_kind_of_text_are_served(tag: str, text: str) -> None:
    (found,) = bind(config(text=text, tag=tag)).bindings
    assert found.name == "named_entities"


@pytest.mark.parametrize(
    ("control", "text", "reason"),
    [
        ('value="$names"', '<Text name="text" value="$text"/>', "its choices come from the task's data"),
        ('visibleWhen="region-selected"', '<Text name="text" value="$text"/>', "what a person selects"),
        ("", '<Text name="text" value="$text" valueType="url"/>', "must stand in the task's data"),
        ("", '<Text name="text" value="$text" encoding="base64"/>', "must stand in the task's data"),
    ],
)
def test_what_is_not_served_is_named(control: str, text: str, reason: str) -> None:
    found = bind(config(control, text))
    assert found.bindings == ()
    assert reason in found.unclaimed[0].reason


def test_labels_on_an_image_are_left_alone() -> None:
    found = bind(config(text='<Image name="text" value="$text"/>'))
    assert [one.reason for one in found.unclaimed] == ["no problem serves Labels on Image"]


def test_the_model_reads_the_text_and_each_labels_own_words() -> None:
    asked = binding().model_input(TEXT)
    assert asked.contents[0].text == TEXT["text"]
    assert asked.with_template("the name of {}").labels == (("the name of a human being",), ("the name of City",))  # type: ignore[attr-defined]


def test_spans_are_predicted_with_their_text_and_their_mean_confidence() -> None:
    spans = (Span(start=0, end=4, label=0, probability=0.9), Span(start=18, end=22, label=1, probability=0.7))
    found = binding().prediction(SpanScores(spans=spans, no_span_probability=0.5), TEXT)
    assert found.regions == [region(0, 4, "Person"), region(18, 22, "City")]
    assert found.score == pytest.approx(0.8)
    assert [one["value"]["text"] for one in found.regions] == ["Zoe\u0301", "Łódź"]


def test_where_nothing_is_found_the_score_is_the_confidence_in_that() -> None:
    found = binding().prediction(SpanScores(spans=(), no_span_probability=0.6), TEXT)
    assert (found.regions, found.score) == ([], 0.6)


def test_targets_are_the_spans_in_order_and_labels_in_any_spelling() -> None:
    result = [region(18, 22, "CITY"), region(0, 4, "Person", "City"), {"from_name": "other", "value": {}}]
    assert binding().target(result, TEXT) == SpanTarget(((0, 4, 0), (0, 4, 1), (18, 22, 1)))
    assert binding().target([], TEXT) == SpanTarget(())


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        ([region(0, 4, "Planet")], r"\['Planet'\], which the label config no longer has"),
        ([region(0, 99, "Person")], "outside of the text or empty: start 0, end 99"),
    ],
)
def test_what_teaches_nothing_is_named(result: list[Region], reason: str) -> None:
    with pytest.raises(MissingTargetError, match=reason):
        binding().target(result, TEXT)


def test_several_annotators_agree_on_the_spans_of_most() -> None:
    one, two, three = SpanTarget(((0, 4, 0),)), SpanTarget(((0, 4, 0), (18, 22, 1))), SpanTarget(((18, 22, 0),))
    assert binding().aggregate([one, two, three]) == SpanTarget(((0, 4, 0),))
    assert binding().aggregate([three, two]) == two, "of two the newest decides"


def test_the_class_of_a_task_is_the_labels_that_occur() -> None:
    assert binding().class_of(SpanTarget(((0, 4, 0), (5, 6, 1), (7, 8, 0)))) == (0, 1)


def test_the_recorded_annotation_of_label_studio_is_learned_and_predicted_again() -> None:
    recorded = json.loads((RECORDINGS / "03-submit-webhook-annotation_created.json").read_text())["body"]
    (found,) = bind(recorded["project"]["label_config"]).bindings
    data, result = recorded["task"]["data"], recorded["annotation"]["result"]
    target = found.target(result, data)
    assert target == SpanTarget(((0, 12, 0), (40, 46, 1)))
    again = found.prediction(found.perfect_output(target), data).regions
    assert [one["value"] for one in again] == [one["value"] for one in result]
