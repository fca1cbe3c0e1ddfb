"""Texts for texts: which TextArea is served, what is asked, and what an annotation teaches."""

from typing import Any

import pytest

from lorabel.contracts import MediaRef, Modality
from lorabel.errors import MissingTargetError, UnreadableError
from lorabel.problems.binding import bind
from lorabel.problems.generated_text import GeneratedText
from lorabel.text_contracts import TextTarget, WrittenText

TEXT = '<Text name="text" value="$text"/>'
IMAGE = '<Image name="image" value="$image"/>'
CAPTION = '<TextArea name="caption" toName="image"/>'
AREA = '<TextArea name="summary" toName="text"/>'
CHOICES = '<Choices name="mood" toName="text"><Choice value="a"/><Choice value="b"/></Choices>'


def served(config: str) -> GeneratedText:
    (binding,) = (
        each for each in bind(f"<View>{config}</View>").bindings if each.from_name in ("summary", "caption")
    )
    assert isinstance(binding, GeneratedText)
    return binding


def instruction(config: str) -> str:
    return served(config).model_input({"text": "x"}).instruction


def result(answer: Any) -> list[dict[str, Any]]:
    return [{"from_name": "summary", "to_name": "text", "type": "textarea", "value": {"text": answer}}]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (TEXT + AREA, "Write the summary of the text."),
        ('<Header value="Read."/>' + TEXT + '<Header value="Sum up."/>' + AREA, "Sum up."),
        (TEXT + AREA + '<Header value="Sum up."/>', "Sum up."),
        ('<Header value="$title"/>' + TEXT + AREA, "Write the summary of the text."),
        (
            '<Header value="Read."/>' + TEXT + '<TextArea name="summary" toName="text" placeholder="Sum up."/>',
            "Sum up.",
        ),
        (
            TEXT + '<TextArea name="summary" toName="text" placeholder="here" hint="b" prompt="Sum up."/>',
            "Sum up.",
        ),
        (TEXT + CHOICES + '<TextArea name="summary" toName="text" hint="Sum up."/>', "Sum up."),
        (
            '<Header value="Sum up."/>'
            + TEXT
            + CHOICES
            + '<TextArea name="summary" toName="text" required="true"/>',
            "Sum up.",
        ),
    ],
)
def test_the_instruction_is_the_tags_own_or_the_header_before_it(config: str, expected: str) -> None:
    assert instruction(config) == expected


@pytest.mark.parametrize(
    ("extra_params", "expected"),
    [
        ({"instruction": " Be brief. "}, "Be brief."),
        ({"instruction": {"summary": "Be brief.", "other": "x"}}, "Be brief."),
        ({"instruction": {"other": "x"}}, "Sum up."),
        ({"instruction": ""}, "Sum up."),
        ({"instruction": 7}, "Sum up."),
        (["instruction"], "Sum up."),
        (None, "Sum up."),
    ],
)
def test_the_instruction_of_the_projects_extra_params_goes_before_the_label_configs(
    extra_params: Any, expected: str
) -> None:
    bound = bind(f'<View>{TEXT}<TextArea name="summary" toName="text" hint="Sum up."/></View>')
    (binding,) = bound.for_project(extra_params).bindings
    assert isinstance(binding, GeneratedText) and binding.instruction == expected


def test_a_template_of_the_settings_stands_around_the_instruction() -> None:
    question = served(TEXT + AREA).model_input({"text": "x"})
    assert question.with_template("{} Answer in French.").instruction == (
        "Write the summary of the text. Answer in French."
    )


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (TEXT + CHOICES + AREA, "it may be for notes beside other answers"),
        (TEXT + '<TextArea name="summary" toName="text" value="$draft"/>', "the editor fills it in"),
        ('<Audio name="song" value="$song"/>' + TEXT + AREA, "the task also shows Audio 'song'"),
        (IMAGE + CAPTION.replace("/>", ' perRegion="true"/>'), "perRegion"),
        (IMAGE + CAPTION + CHOICES.replace('"text"', '"image"'), "it may be for notes beside other answers"),
        (TEXT + '<TextArea name="summary" toName="text" perRegion="true"/>', "perRegion"),
    ],
)
def test_other_text_areas_are_left_to_people_with_the_reason(config: str, reason: str) -> None:
    (unclaimed,) = bind(f"<View>{config}</View>").unclaimed
    assert reason in unclaimed.reason


def test_texts_that_no_control_tag_names_are_read_too_and_may_be_missing() -> None:
    binding = served(TEXT + '<Text name="question" value="$question"/>' + AREA)
    both = binding.model_input({"text": "It rains.", "question": "How is it?"})
    assert [content.text for content in both.contents] == ["It rains.", "How is it?"]
    assert [content.text for content in binding.model_input({"text": "It rains."}).contents] == ["It rains."]
    with pytest.raises(UnreadableError, match="no text under 'text'"):
        binding.model_input({"text": " "})


def test_the_end_of_a_dialogue_matters_more_than_its_beginning_and_that_of_a_text_does_not() -> None:
    assert not served(TEXT + AREA).model_input({"text": "x"}).is_end_kept
    dialogue = served('<Paragraphs name="text" value="$text"/>' + AREA)
    assert dialogue.model_input({"text": [{"author": "A", "text": "x"}]}).is_end_kept


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (["It leaks."], "It leaks."),
        ([" It leaks. \n"], "It leaks."),
        (["It leaks.", "", "At night."], "It leaks.\nAt night."),
        ("It leaks.", "It leaks."),
        (["הדליפה 💧"], "הדליפה 💧"),
    ],
)
def test_the_target_is_what_the_annotator_wrote(answer: Any, expected: str) -> None:
    assert served(TEXT + AREA).target(result(answer), {}) == TextTarget(expected)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ([], "left empty"),
        ([""], "left empty"),
        (["  \n"], "left empty"),
        ("", "left empty"),
        ([1], "expected texts"),
        (None, "expected texts"),
    ],
)
def test_an_answer_without_text_is_skipped_with_the_reason(answer: Any, reason: str) -> None:
    with pytest.raises(MissingTargetError, match=reason):
        served(TEXT + AREA).target(result(answer), {})


def test_an_annotation_without_the_control_tag_was_left_empty() -> None:
    with pytest.raises(MissingTargetError, match="'summary' was left empty"):
        served(TEXT + AREA).target([], {})


def test_nothing_is_predicted_where_the_model_writes_nothing() -> None:
    assert served(TEXT + AREA).prediction(WrittenText(text="", probability=0.9), {}).regions == []


def test_a_caption_is_asked_for_by_a_pictures_name_and_a_question_beside_it_is_read() -> None:
    binding = served(IMAGE + CAPTION)
    assert binding.instruction == "Write the caption of the picture."
    (picture,) = binding.model_input({"image": "/data/upload/1/a.png"}).contents
    assert picture.modality == Modality.IMAGE and picture.media == MediaRef(url="/data/upload/1/a.png")
    binding = served(IMAGE + '<Text name="question" value="$question"/>' + CAPTION)
    shown = binding.model_input({"image": "a.png", "question": "What colour?"}).contents
    assert [content.text for content in shown] == [None, "What colour?"]


def test_several_pictures_are_read_in_order() -> None:
    binding = served('<Image name="image" valueList="$images"/>' + CAPTION)
    shown = binding.model_input({"images": ["a.png", "b.png"]}).contents
    assert [content.media and content.media.url for content in shown] == ["a.png", "b.png"]


def test_a_task_without_its_picture_is_not_answered_from_the_question_alone() -> None:
    binding = served(IMAGE + '<Text name="question" value="$question"/>' + CAPTION)
    with pytest.raises(UnreadableError, match="no picture under 'image'"):
        binding.model_input({"image": "", "question": "What colour?"})


def test_a_picture_beside_the_text_that_the_control_tag_names_may_be_missing() -> None:
    binding = served(TEXT + IMAGE + AREA)
    assert len(binding.model_input({"text": "It rains.", "image": "a.png"}).contents) == 2
    assert len(binding.model_input({"text": "It rains.", "image": ""}).contents) == 1


BOX = '<TextArea name="ask" toName="text" smart="true"/>'


def typed(*texts: Any) -> list[dict[str, Any]]:
    return [{"from_name": "ask", "to_name": "text", "type": "textarea", "value": {"text": list(texts)}}]


def test_a_prompt_box_is_answered_in_the_first_other_text_area_alone() -> None:
    other = '<TextArea name="other" toName="text"/>'
    bound = bind(f"<View>{TEXT}{BOX}{AREA}{other}</View>")
    claims = {binding.from_name: binding.claims for binding in bound.bindings}
    assert claims == {"summary": ("summary", "ask"), "other": ("other",)}
    assert not bound.unclaimed


def test_a_prompt_box_makes_a_text_area_beside_choices_one_that_is_asked_for() -> None:
    assert served(TEXT + CHOICES + BOX + AREA).prompt_tag == "ask"
    assert served(f'{TEXT}{CHOICES}<TextArea name="summary" toName="text" smart="true"/>').prompt_tag == "summary"


def test_an_annotation_is_learned_under_what_was_typed_for_it() -> None:
    binding = served(TEXT + BOX + AREA)
    question = binding.model_input({"text": "x"})
    target = binding.target([*typed("Who?", " Where? "), *result(["Here."])], {"text": "x"})
    assert target == TextTarget("Here.", "Where?")
    asked = binding.asked_for(question, target)
    assert isinstance(asked, type(question)) and asked.instruction == "Where?"
    assert binding.asked_for(question, binding.target(result(["Here."]), {"text": "x"})) == question


def test_what_is_drawn_elsewhere_is_not_for_the_prompt_box() -> None:
    binding = served(TEXT + BOX + AREA)
    assert binding.prompted(binding.model_input({"text": "x"}), result(["x"])) is None
    assert binding.typed_instruction(typed("a", "b")) == "b"
    assert served(TEXT + AREA).typed_instruction(typed("a")) is None


def test_an_extractive_answer_is_asked_of_the_last_content_and_must_be_in_the_text() -> None:
    question = '<Text name="question" value="$question"/>'
    binding = served(f'{question}{TEXT}<TextArea name="summary" toName="text" extractive="true"/>')
    data = {"text": "Ada, in\nLondon 👍🏽", "question": "Where?"}
    asked = binding.model_input(data)
    assert [content.text for content in asked.contents] == ["Where?", data["text"]] and asked.span_of == 1
    assert binding.model_input({"text": "x"}).span_of == 0
    assert binding.target(result(["London 👍🏽"]), data).text == "London 👍🏽"
    with pytest.raises(MissingTargetError, match="not in the text letter by letter"):
        binding.target(result(["Ada in London"]), data)
    with pytest.raises(UnreadableError):
        binding.model_input({"question": "Where?"})


def test_what_another_annotator_wrote_counts_only_for_the_same_typed_question() -> None:
    binding = served(TEXT + BOX + AREA)
    targets = [TextTarget("In hall 3.", "Where?"), TextTarget("Hall 3", "When?"), TextTarget("Today.", "When?")]
    assert binding.aggregate(targets) == TextTarget("Today.", "When?", ("Hall 3",))


def test_a_picture_before_the_text_does_not_shift_the_text_of_which_the_answer_is_a_span() -> None:
    binding = served(f'{IMAGE}{TEXT}<TextArea name="summary" toName="text" extractive="true"/>')
    question = binding.model_input({"image": "a.png", "text": "The pump leaks."})
    assert question.span_of == 1 and question.contents[1].text == "The pump leaks."
