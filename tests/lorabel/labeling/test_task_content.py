import pytest

from lorabel.contracts import Content, MediaRef, Modality, TextFormat
from lorabel.errors import UnreadableError
from lorabel.labeling.label_config import ObjectTag
from lorabel.labeling.task_content import content

URL = "https://example.org/1.txt"


def tag(kind: str, **attributes: str) -> ObjectTag:
    return ObjectTag("shown", kind, "key", attributes)


def test_texts_of_a_task_are_read_at_once() -> None:
    assert content(tag("Text"), {"key": "It works."}) == Content(modality=Modality.TEXT, text="It works.")
    assert content(tag("HyperText"), {"key": "<p>It works.</p>"}).text == "It works."
    turns = [{"author": "Ann", "text": "It works."}]
    assert content(tag("Paragraphs"), {"key": turns}).text == "Ann: It works."
    named = tag("Paragraphs", nameKey="who", textKey="said")
    assert content(named, {"key": [{"who": "Bo", "said": "Good."}]}).text == "Bo: Good."


@pytest.mark.parametrize("kind", ["Text", "HyperText", "Paragraphs"])
def test_a_text_whose_value_is_an_address_is_a_file_to_fetch(kind: str) -> None:
    found = content(tag(kind, valueType="url"), {"key": URL})
    assert (found.text, found.media) == (None, MediaRef(url=URL))
    markup = {"Text": "plain", "HyperText": "html", "Paragraphs": "paragraphs"}[kind]
    assert found.text_format == TextFormat(markup=markup)


def test_an_address_is_only_a_text_where_the_label_config_does_not_say_otherwise() -> None:
    assert content(tag("Text"), {"key": URL}).text == URL
    assert content(tag("Text", valueType="text"), {"key": URL}).text == URL


@pytest.mark.parametrize(
    ("kind", "attributes", "value", "said"),
    [
        ("Text", {}, 5, "task data has no text under 'key'.*'shown': found 5"),
        ("Text", {"valueType": "url"}, ["a"], "where an address was expected"),
        ("Image", {}, None, "task data has no picture under 'key'"),
        ("Text", {"encoding": "rot13"}, "Vg jbexf.", "Text has {'encoding': 'rot13'}"),
    ],
)
def test_what_a_task_lacks_is_named_with_its_object_tag(
    kind: str, attributes: dict[str, str], value: object, said: str
) -> None:
    with pytest.raises(UnreadableError, match=said) as caught:
        content(tag(kind, **attributes), {"key": value})
    assert caught.value.is_permanent
