"""Control tags for explanations: which can show them, and the regions that are built for them."""

from typing import Any

import pytest

from lorabel.errors import UnservedError
from lorabel.labeling.explanation_regions import WeighedWord, kind_of, marked_places, marked_words, said
from lorabel.labeling.label_config import ControlTag, LabelConfig, parse
from lorabel.labeling.named_labels import named_labels
from lorabel.labeling.results import is_same_result
from lorabel.problems.binding import bind

FOR_AND_AGAINST = '<Label value="for"/><Label value="against"/>'
LABELS = f'<Labels name="lorabel_why" toName="text">{FOR_AND_AGAINST}</Labels>'
TEXT = '<Text name="text" value="$text"/>'


def config_of(tag: str, objects: str = TEXT) -> tuple[LabelConfig, ControlTag]:
    config = parse(f"<View>{objects}{tag}</View>")
    (control,) = config.explanations
    return config, control


@pytest.mark.parametrize(
    ("tag", "objects", "kind"),
    [
        ('<TextArea name="lorabel_why" toName="text"/>', TEXT, "textarea"),
        (LABELS, TEXT, "regions"),
        (LABELS, '<HyperText name="text" value="$text"/>', "regions"),
        (
            f'<ParagraphLabels name="lorabel_why_x" toName="text">{FOR_AND_AGAINST}</ParagraphLabels>',
            '<Paragraphs name="text" value="$text"/>',
            "regions",
        ),
        (
            '<RectangleLabels name="lorabel_why" toName="image"><Label value="here"/></RectangleLabels>',
            '<Image name="image" value="$image"/>',
            "regions",
        ),
    ],
)
def test_these_control_tags_can_show_explanations(tag: str, objects: str, kind: str) -> None:
    config, control = config_of(tag, objects)
    assert kind_of(control) == kind
    assert config.controls == ()


@pytest.mark.parametrize(
    ("tag", "objects", "reason"),
    [
        (
            '<Choices name="lorabel_why" toName="text"><Choice value="a"/></Choices>',
            TEXT,
            "<Choices> on Text cannot show explanations; expected <TextArea>",
        ),
        (
            LABELS.replace("text", "sound"),
            '<Audio name="sound" value="$sound"/>',
            "<Labels> on Audio cannot show explanations",
        ),
        ('<TextArea name="lorabel_why" toName="text" perRegion="true"/>', TEXT, "perRegion"),
        ('<Labels name="lorabel_why" toName="text"/>', TEXT, "it has no label"),
    ],
)
def test_others_have_a_reason(tag: str, objects: str, reason: str) -> None:
    _, control = config_of(tag, objects)
    with pytest.raises(UnservedError, match=reason):
        kind_of(control)
    (unclaimed,) = bind(f"<View>{objects}{tag}</View>").unclaimed
    assert reason in unclaimed.reason


def test_words_are_marked_at_the_places_that_the_editor_counts() -> None:
    config, control = config_of(LABELS)
    data = {"text": "A good day is a 🙂 good day, not a bad one"}
    words = [("good", True), ("day", None), ("good", True), ("day", None), ("missing", True), ("bad", False)]
    marked = marked_words(control, data, [WeighedWord(*word) for word in words])
    values = [region["value"] for region in marked]
    assert [data["text"][value["start"] : value["end"]] for value in values] == ["good", "good", "bad"]
    assert [value["start"] for value in values] == [2, 18, 34]
    assert [value["labels"] for value in values] == [["for"], ["for"], ["against"]]
    assert [error for region in marked for error in config.find_region_errors(region)] == []


def test_words_of_a_page_are_marked_in_its_text() -> None:
    config, control = config_of(LABELS, '<HyperText name="text" value="$text"/>')
    data = {"text": "<p>Nothing</p><p>A <b>good</b> day</p>"}
    (region,) = marked_words(control, data, [WeighedWord("good", True)])
    assert region["type"] == "labels" and region["value"]["text"] == "good"
    assert region["value"]["start"] == "/p[2]/b[1]/text()[1]"
    assert config.find_region_errors(region) == []


def test_names_that_the_editor_shows_elsewhere_are_not_marked_in_what_was_said() -> None:
    """Before, the A of a name was found in "About", and the words before that were lost."""
    _, control = config_of(
        '<ParagraphLabels name="lorabel_why" toName="p"><Label value="for it"/></ParagraphLabels>',
        '<Paragraphs name="p" value="$p" layout="dialogue" nameKey="who" textKey="said"/>',
    )
    said_by = [("A", "Hi."), ("B", "Hello there."), ("A", "About what?")]
    words = ["A", "Hi", "B", "Hello", "there", "A", "About", "what"]
    data = {"p": [{"who": who, "said": text} for who, text in said_by]}
    marked = marked_words(control, data, [WeighedWord(word, True) for word in words])
    assert [region["value"]["text"] for region in marked] == ["Hi", "Hello", "there", "About", "what"]
    assert [region["value"]["start"] for region in marked] == ["0", "1", "1", "2", "2"]
    group = WeighedWord("Hi.\nB: Hello", True)
    assert marked_words(control, data, [group]) == [], "a group of which the editor shows a part elsewhere"
    other_word = WeighedWord("Hello there dear friend", True)
    data = {"p": [{"who": "A", "said": "Hello there old friend"}]}
    assert marked_words(control, data, [other_word]) == []


def test_a_single_label_marks_what_speaks_for_the_answer() -> None:
    _, control = config_of('<Labels name="lorabel_why" toName="text"><Label value="why"/></Labels>')
    words = [WeighedWord("good", True), WeighedWord("bad", False)]
    (region,) = marked_words(control, {"text": "good or bad"}, words)
    assert region["value"]["labels"] == ["why"] and region["value"]["text"] == "good"
    assert marked_words(control, {}, words) == []


def test_places_and_texts_fit_the_label_config() -> None:
    image = '<Image name="image" value="$image"/>'
    rectangles = f'<RectangleLabels name="lorabel_why" toName="image">{FOR_AND_AGAINST}</RectangleLabels>'
    config, control = config_of(rectangles, image)
    marked = marked_places(control, (400, 200), [((0.0, 0.5, 0.25, 1.0), False)])
    assert marked[0]["value"]["rectanglelabels"] == ["against"]
    assert (marked[0]["value"]["x"], marked[0]["value"]["y"]) == (0.0, 50.0)
    assert config.find_region_errors(marked[0]) == []
    config, control = config_of('<TextArea name="lorabel_why" toName="text"/>')
    (region,) = said(control, ["because", "so"])
    assert region["value"] == {"text": ["because", "so"]} and config.find_region_errors(region) == []
    assert said(control, []) == []


def test_a_text_that_only_an_explanation_names_is_still_shown_beside_a_picture() -> None:
    """Choices about a picture read the text beside it only as long as no other control tag asks about it."""
    objects = f'<Image name="image" value="$image"/>{TEXT}'
    choices = '<Choices name="label" toName="image"><Choice value="a"/><Choice value="b"/></Choices>'
    why = '<TextArea name="lorabel_why" toName="text"/>'
    (binding,) = bind(f"<View>{objects}{choices}{why}</View>").bindings
    assert binding.name == "image_text_classification"


def choice(value: str) -> dict[str, Any]:
    return {"from_name": "label", "to_name": "text", "type": "choices", "value": {"choices": [value]}}


WHY = {"from_name": "lorabel_why", "to_name": "text", "type": "textarea", "value": {"text": ["so"]}}


@pytest.mark.parametrize("other", [[], [{**WHY, "value": {"text": ["changed"]}}], [WHY, WHY]])
def test_results_that_differ_in_explanations_alone_say_the_same(other: list[Any]) -> None:
    assert is_same_result([choice("a"), WHY], [choice("a"), *other])
    assert not is_same_result([choice("a"), WHY], [choice("b"), WHY])
    assert is_same_result([WHY], [])
    assert not is_same_result([choice("a"), WHY], [WHY])


def test_what_an_explanation_marks_is_no_label_of_a_task() -> None:
    marked = {**WHY, "type": "labels", "value": {"start": 0, "end": 2, "labels": ["for"]}}
    assert named_labels([choice("a"), marked]) == {"label": {"a"}}
