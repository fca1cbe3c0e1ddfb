import json
from pathlib import Path

import pytest

from lorabel.contracts import Span, SpanScores, SpanTarget
from lorabel.errors import MissingTargetError
from lorabel.labeling.regions import Region, choices, labels
from lorabel.problems.base import Problem
from lorabel.problems.binding import bind
from lorabel.problems.named_entities import NamedEntities

RECORDINGS = Path(__file__).parents[2] / "data" / "recordings" / "text-ner"
TEXT = {"text": "Zoe\u0301 met 😀 Bob in Łódź."}


def config(control: str = "", text: str = '<Text name="text" value="$text"/>', tag: str = "Labels") -> str:
    names = '<Label value="Person" hint="a human being"/><Label value="City"/>'
    return f'<View><{tag} name="entity" toName="text" {control}>{names}</{tag}>{text}</View>'


def binding() -> Problem:
    (problem,) = bind(config()).bindings
    return problem


def region(start: int, end: int, *values: str) -> Region:
    offsets = {"start": start, "end": end, "text": TEXT["text"][start:end]}
    return labels("entity", "text", "labels", offsets, list(values))


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
    (problem,) = bind(config(text=text, tag=tag)).bindings
    assert problem.name == "named_entities"


@pytest.mark.parametrize(
    ("control", "text", "reason"),
    [
        ('value="$names"', '<Text name="text" value="$text"/>', "its choices come from the task's data"),
        ('visibleWhen="region-selected"', '<Text name="text" value="$text"/>', "what a person selects"),
        ("", '<Text name="text" value="$text" valueType="url"/>', "must stand in the task's data"),
        ("", '<Text name="text" value="$text" encoding="base64"/>', "must stand in the task's data"),
    ],
)
def test_a_control_tag_that_is_not_served_says_why(control: str, text: str, reason: str) -> None:
    bound = bind(config(control, text))
    assert bound.bindings == ()
    assert reason in bound.unclaimed[0].reason


def test_labels_on_an_image_are_not_served() -> None:
    bound = bind(config(text='<Image name="text" value="$text"/>'))
    assert [tag.reason for tag in bound.unclaimed] == ["no problem serves Labels on Image"]


def test_the_model_reads_the_text_and_the_texts_of_the_labels() -> None:
    question = binding().model_input(TEXT)
    assert question.contents[0].text == TEXT["text"]
    labels = question.with_template("the name of {}").labels  # type: ignore[attr-defined]
    assert labels == (("the name of a human being",), ("the name of City",))


def test_spans_are_predicted_with_their_text_and_their_mean_confidence() -> None:
    spans = (Span(start=0, end=4, label=0, probability=0.9), Span(start=18, end=22, label=1, probability=0.7))
    prediction = binding().prediction(SpanScores(spans=spans, no_span_probability=0.5), TEXT)
    assert prediction.regions == [region(0, 4, "Person"), region(18, 22, "City")]
    assert prediction.score == pytest.approx(0.8)
    assert [region["value"]["text"] for region in prediction.regions] == ["Zoe\u0301", "Łódź"]


def test_the_score_without_spans_is_the_probability_that_there_is_none() -> None:
    prediction = binding().prediction(SpanScores(spans=(), no_span_probability=0.6), TEXT)
    assert (prediction.regions, prediction.score) == ([], 0.6)


def test_targets_are_sorted_spans_and_labels_are_matched_in_any_case() -> None:
    result = [region(18, 22, "CITY"), region(0, 4, "Person", "City"), {"from_name": "other", "value": {}}]
    assert binding().target(result, TEXT) == SpanTarget(((0, 4, 0), (0, 4, 1), (18, 22, 1)))
    assert binding().target([], TEXT) == SpanTarget(())


TWO_TAGS = (
    '<View><Text name="text" value="$text"/>'
    '<Labels name="entity" toName="text"><Label value="Person"/><Label value="City"/></Labels>'
    '<Labels name="tone" toName="text"><Label value="praise"/></Labels>'
    '<Choices name="topic" toName="text"><Choice value="travel"/><Choice value="work"/></Choices></View>'
)


@pytest.mark.parametrize("other", ["tone", "the former name of entity"])
def test_where_another_tag_alone_marks_the_text_this_one_is_not_taught_that_nothing_is_there(other: str) -> None:
    entity, tone = (each for each in bind(TWO_TAGS).bindings if isinstance(each, NamedEntities))
    with pytest.raises(MissingTargetError, match=f"'entity' was not used, but '{other}' was"):
        entity.target([{**region(0, 4, "praise"), "from_name": other}], TEXT)
    with pytest.raises(MissingTargetError, match="'tone' was not used, but 'entity' was"):
        tone.target([region(0, 4, "Person")], TEXT)


def test_texts_without_any_span_and_spans_elsewhere_teach_that_nothing_is_there() -> None:
    entity, _ = (each for each in bind(TWO_TAGS).bindings if isinstance(each, NamedEntities))
    topic = choices("topic", "text", ["travel"])
    elsewhere = {**region(0, 4, "praise"), "from_name": "tone", "to_name": "another text"}
    for result in ([], [topic], [elsewhere]):
        assert entity.target(result, TEXT) == SpanTarget(())
    both = [region(0, 4, "Person"), {**region(5, 8, "praise"), "from_name": "tone"}]
    assert entity.target(both, TEXT) == SpanTarget(((0, 4, 0),))


def test_a_tag_that_marks_nothing_may_be_unused_where_another_marks_the_text() -> None:
    entity, tone = (each for each in bind(TWO_TAGS).bindings if isinstance(each, NamedEntities))
    assert tone.may_be_unused(SpanTarget(())) and entity.may_be_unused(SpanTarget(()))
    assert not entity.may_be_unused(SpanTarget(((0, 4, 0),)))
    assert not binding().may_be_unused(SpanTarget(())), "there is no other tag to mark with"


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        ([region(0, 4, "Planet")], r"\['Planet'\], which the label config no longer has"),
        ([region(0, 99, "Person")], "outside of the text or empty: start 0, end 99"),
    ],
)
def test_a_result_with_an_unknown_label_or_wrong_offsets_has_no_target(result: list[Region], reason: str) -> None:
    with pytest.raises(MissingTargetError, match=reason):
        binding().target(result, TEXT)


def test_targets_of_several_annotators_are_aggregated_by_majority() -> None:
    person = SpanTarget(((0, 4, 0),))
    person_and_city = SpanTarget(((0, 4, 0), (18, 22, 1)))
    other_label = SpanTarget(((18, 22, 0),))
    assert binding().aggregate([person, person_and_city, other_label]) == person
    assert binding().aggregate([other_label, person_and_city]) == person_and_city, "the newest decides a tie"


def test_the_class_of_a_task_is_the_labels_that_occur() -> None:
    assert binding().class_of(SpanTarget(((0, 4, 0), (5, 6, 1), (7, 8, 0)))) == (0, 1)


def test_a_recorded_annotation_becomes_a_target_and_the_same_regions_again() -> None:
    recorded = json.loads((RECORDINGS / "03-submit-webhook-annotation_created.json").read_text())["body"]
    (problem,) = bind(recorded["project"]["label_config"]).bindings
    data, result = recorded["task"]["data"], recorded["annotation"]["result"]
    target = problem.target(result, data)
    assert target == SpanTarget(((0, 12, 0), (40, 46, 1)))
    predicted = problem.prediction(problem.perfect_output(target), data).regions
    assert [region["value"] for region in predicted] == [region["value"] for region in result]
