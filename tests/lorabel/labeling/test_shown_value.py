"""What the editor shows for the `value` of an object tag; the truth is the JavaScript of Label Studio 1.23.2."""

import pytest

from lorabel.errors import UnreadableError
from lorabel.labeling.label_config import parse
from lorabel.labeling.task_content import contents
from lorabel.labeling.text_offsets import flat_text
from lorabel.problems.binding import bind

DATA = {
    "title": "A heron",
    "body": "It wades.",
    "a": {"b": "nested", "n": None, "deep": [{"text": "first"}, {"text": "second"}]},
    "a.c": "a key with a dot",
    "count": 3,
    "list": ["x", 1, None, ["y", True]],
}


def shown(value: str, tag: str = "Text") -> str | None:
    xml = (
        f'<View><{tag} name="text" value="{value}"/>'
        '<Choices name="c" toName="text"><Choice value="a"/></Choices></View>'
    )
    (control,) = parse(xml).controls
    (content,) = contents(control.objects[0], DATA)
    assert flat_text(control.objects[0], DATA).text == content.text or tag != "Text"
    return content.text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("$title", "A heron"),
        ("$a.b", "nested"),
        ("$a.deep[1].text", "second"),
        ("$a['b']", "[object Object]'b']"),
        ("$a.c", "a key with a dot"),
        ("Title: $title / $body", "Title: A heron / It wades."),
        # The editor takes the dot for a part of the name.
        ("$title. $body", "A heron It wades."),
        ("$title-$other", "A heron-undefined"),
        ("$title ($a.n)", "A heron (null)"),
        ("$count of $list", "3 of x,1,,y,true"),
        ("Read this.", "Read this."),
        ("5 $", "5 $"),
    ],
)
def test_a_value_shows_what_the_editor_shows(value: str, text: str) -> None:
    assert shown(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3, "3"),
        (3.0, "3"),
        (-0.0, "0"),
        (0.1, "0.1"),
        (1e21, "1e+21"),
        (123456789012345680000, "123456789012345680000"),
        (1e-6, "0.000001"),
        (1.5e-7, "1.5e-7"),
        (10**400, "Infinity"),
        (True, "true"),
        (False, "false"),
        (["a", 1, None, ["b", False]], "a,1,,b,false"),
    ],
)
def test_a_number_a_boolean_and_a_list_are_read_as_javascript_writes_them(value: object, text: str) -> None:
    xml = '<View><Text name="text" value="$t"/><Rating name="c" toName="text"/></View>'
    (control,) = parse(xml).controls
    (content,) = contents(control.objects[0], {"t": value})
    assert content.text == text
    assert flat_text(control.objects[0], {"t": value}).text == text


@pytest.mark.parametrize("value", ["$other", "$a.x", "$a.deep[7].text", "Title: $other", "$a.n"])
def test_a_value_of_which_the_task_has_nothing_is_unreadable(value: str) -> None:
    with pytest.raises(UnreadableError, match="task data has no text under") as caught:
        shown(value)
    assert caught.value.is_permanent


def test_a_text_between_the_tags_is_the_value() -> None:
    xml = '<View><Text name="t">$body</Text><Rating name="c" toName="t"/></View>'
    (control,) = parse(xml).controls
    assert contents(control.objects[0], DATA)[0].text == "It wades."


def test_a_text_with_a_variable_is_context_and_one_without_is_not() -> None:
    xml = (
        '<View><Image name="i" value="$a.b"/><Text name="hint" value="Look!"/>'
        '<Text name="t" value="Title: $title"/><Choices name="c" toName="i"><Choice value="a"/></Choices></View>'
    )
    (control,) = parse(xml).controls
    assert [tag.name for tag in control.context] == ["t"]


def test_a_control_tag_about_what_is_the_same_in_every_task_is_unclaimed_with_the_reason() -> None:
    xml = '<View><Text name="t" value="Read this."/><Rating name="c" toName="t"/></View>'
    (unclaimed,) = bind(xml).unclaimed
    assert unclaimed.reason == "toName='t': the value 'Read this.' names no key of the task's data"


@pytest.mark.parametrize(
    ("attribute", "data", "urls"),
    [
        ('valueList="$pages"', {"pages": ["1.png", "2.png"]}, ["1.png", "2.png"]),
        ('value="$pages"', {"pages": ["1.png", "2.png"]}, ["1.png", "2.png"]),
        ('valueList="$pages"', {"pages": "1.png"}, ["1.png"]),
        ('value="$pages[1].url"', {"pages": [{}, {"url": "2.png"}]}, ["2.png"]),
        ('value="https://example.org/$id/a.png"', {"id": 7}, ["https://example.org/7/a.png"]),
        # The editor takes ".png" for a part of the name.
        ('value="https://example.org/$id.png"', {"id": 7}, None),
    ],
)
def test_an_image_shows_one_picture_or_a_list_of_them(
    attribute: str, data: dict[str, object], urls: list[str] | None
) -> None:
    xml = (
        f'<View><Image name="i" {attribute}/><Choices name="c" toName="i">'
        '<Choice value="a"/><Choice value="b"/></Choices></View>'
    )
    (binding,) = bind(xml).bindings
    if urls is None:
        with pytest.raises(UnreadableError, match="task data has no picture"):
            binding.model_input(data)
    else:
        media = [content.media for content in binding.model_input(data).contents]
        assert [ref.url for ref in media if ref is not None] == urls
