"""The editor ignores the case of names, and reads a text between the tags as `value` (Label Studio 1.23.2)."""

import pytest

from lorabel.contracts import Modality
from lorabel.labeling.config_xml import read
from lorabel.labeling.label_config import parse
from lorabel.labeling.task_content import contents
from lorabel.labeling.text_offsets import flat_text
from lorabel.problems.binding import bind

CHOICES = '<Choices name="c" toName="o"><Choice value="a"/><Choice value="b"/></Choices>'


def test_names_in_any_case_are_those_of_the_sdk() -> None:
    choices = '<choices name="c" toname="o"><choice VALUE="a" Hint="x"/></choices>'
    xml = f'<view><TEXT NAME="o" Value="$t"/>{choices}</view>'
    (control,) = parse(xml).controls
    assert (control.name, control.tag, control.objects[0].tag) == ("c", "Choices", "Text")
    assert control.labels[0].texts == ("x",)
    region = {"from_name": "c", "to_name": "o", "type": "choices", "value": {"choices": ["a"]}}
    assert parse(xml).find_region_errors(region) == []


@pytest.mark.parametrize("name", ["valueType", "valuetype", "VALUETYPE"])
def test_a_text_at_an_address_is_a_file_to_fetch_in_any_case(name: str) -> None:
    (control,) = parse(f'<View><Text name="o" value="$t" {name}="url"/>{CHOICES}</View>').controls
    (content,) = contents(control.objects[0], {"t": "https://example.org/1.txt"})
    assert (content.modality, content.text) == (Modality.TEXT, None)


def test_the_keys_of_a_dialogue_are_found_in_any_case() -> None:
    turns = [{"who": "Ann", "said": "Hello."}]
    xml = f'<View><Paragraphs name="o" value="$t" namekey="who" TEXTKEY="said"/>{CHOICES}</View>'
    (control,) = parse(xml).controls
    assert contents(control.objects[0], {"t": turns})[0].text == "Ann: Hello."
    assert flat_text(control.objects[0], {"t": turns}).text == "Hello."


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ('perregion="true"', "perRegion: it asks about each region that a person draws"),
        ('PERITEM="true"', "perItem: it asks about each item of a list"),
        ('visiblewhen="region-selected"', "visibleWhen='region-selected': it depends on what a person selects"),
        ('apiurl="https://example.org"', "apiUrl='https://example.org': its choices come from an address"),
    ],
)
def test_an_unserved_attribute_is_found_in_any_case(attributes: str, reason: str) -> None:
    xml = f'<View><Text name="o" value="$t"/>{CHOICES.replace("<Choices", f"<Choices {attributes}")}</View>'
    (unclaimed,) = bind(xml).unclaimed
    assert unclaimed.reason == reason


def test_a_condition_is_found_in_any_case() -> None:
    attributes = 'visiblewhen="choice-selected" WHENTAGNAME="k" whenchoicevalue="x"'
    xml = f'<View><Text name="o" value="$t"/>{CHOICES.replace("<Choices", f"<Choices {attributes}")}</View>'
    (condition,) = parse(xml).controls[0].conditions
    assert (condition.kind, condition.tag, condition.values) == ("choice-selected", "k", ("x",))


@pytest.mark.parametrize(
    ("xml", "value"),
    [
        ("<Text>$t</Text>", "$t"),
        ("<Text>\n  $t\n</Text>", "$t"),
        ('<Text value="$t">\n</Text>', "$t"),
        ('<Text value="$t">other</Text>', "other"),
        ("<HyperText><p>5 &lt; 6 <b>$t</b></p></HyperText>", "<p>5 &lt; 6 <b>$t</b></p>"),
        ("<View><Text/>between</View>", None),
    ],
)
def test_what_stands_between_the_tags_is_the_value(xml: str, value: str | None) -> None:
    assert read(xml).get("value") == value


def test_an_attribute_that_nobody_knows_is_kept() -> None:
    (control,) = parse(f'<View><Text name="o" value="$t" myOwn="1"/>{CHOICES}</View>').controls
    assert control.objects[0].attributes["myOwn"] == "1"
    assert dict(control.objects[0].attributes) == {"name": "o", "value": "$t", "myown": "1"}
