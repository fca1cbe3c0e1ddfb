import pytest

from lorabel.content_formats import TextFormat
from lorabel.contracts import Content, MediaRef, Modality
from lorabel.errors import UnreadableError
from lorabel.labeling.label_config import ObjectTag
from lorabel.labeling.task_content import contents

URL = "https://example.org/1.txt"


def tag(kind: str, **attributes: str) -> ObjectTag:
    return ObjectTag("shown", kind, "$key", attributes)


def content(tag: ObjectTag, data: dict[str, object]) -> Content:
    (shown,) = contents(tag, data)
    return shown


def test_a_text_in_the_task_is_read_without_its_markup() -> None:
    assert content(tag("Text"), {"key": "It works."}) == Content(modality=Modality.TEXT, text="It works.")
    assert content(tag("HyperText"), {"key": "<p>It works.</p>"}).text == "It works."
    turns = [{"author": "Ann", "text": "It works."}]
    assert content(tag("Paragraphs"), {"key": turns}).text == "Ann: It works."
    named = tag("Paragraphs", nameKey="who", textKey="said")
    assert content(named, {"key": [{"who": "Bo", "said": "Good."}]}).text == "Bo: Good."


@pytest.mark.parametrize("kind", ["Text", "HyperText", "Paragraphs"])
def test_a_text_whose_value_is_an_address_is_a_file_to_fetch(kind: str) -> None:
    file_content = content(tag(kind, valueType="url"), {"key": URL})
    assert (file_content.text, file_content.media) == (None, MediaRef(url=URL))
    markup = {"Text": "plain", "HyperText": "html", "Paragraphs": "paragraphs"}[kind]
    assert file_content.text_format == TextFormat(markup=markup)


def test_an_address_is_a_text_unless_the_label_config_says_that_it_is_one() -> None:
    assert content(tag("Text"), {"key": URL}).text == URL
    assert content(tag("Text", valueType="text"), {"key": URL}).text == URL


@pytest.mark.parametrize(
    ("kind", "attributes", "value", "reason"),
    [
        ("Text", {}, {"a": 5}, "task data has no text under 'key'.*'shown': found {'a': 5}"),
        ("Text", {}, None, "task data has no text under 'key'.*'shown': no text is in ''"),
        ("Text", {"valueType": "url"}, ["a"], "where an address was expected"),
        ("Image", {}, None, "task data has no picture under 'key'"),
        ("Text", {"encoding": "rot13"}, "Vg jbexf.", "Text has {'encoding': 'rot13'}"),
        ("Image", {}, [], "task data has no picture under 'key'.*the list is empty"),
        ("Image", {}, ["1.png", {"x": "x" * 10**6}], "task data has no picture under 'key'"),
        ("Video", {}, ["1.mp4"], "task data has no video under 'key'"),
    ],
)
def test_missing_data_is_refused_and_the_error_names_the_object_tag(
    kind: str, attributes: dict[str, str], value: object, reason: str
) -> None:
    with pytest.raises(UnreadableError, match=reason) as caught:
        content(tag(kind, **attributes), {"key": value})
    assert caught.value.is_permanent
    assert len(str(caught.value)) < 400
