import pytest

from lorabel.errors import LabelConfigError
from lorabel.label_config import Label, parse


def test_control_tags_come_with_their_objects_labels_and_aliases() -> None:
    config = parse(
        '<View><Image name="image" value="$photo"/><Choices name="label" toName="image" choice="multiple">'
        '<Choice value="crack" alias="C3"/><Choice value="fine"/></Choices></View>'
    )
    (control,) = config.controls
    assert (control.name, control.tag, control.attributes["choice"]) == ("label", "Choices", "multiple")
    assert control.labels == (Label("C3", ("C3",)), Label("fine", ("fine",)))
    assert [(o.name, o.tag, o.data_key) for o in control.objects] == [("image", "Image", "photo")]


@pytest.mark.parametrize("xml", ["", "<View>", "no xml", "<View></Voew>"])
def test_what_is_no_label_config_is_refused_with_its_beginning(xml: str) -> None:
    with pytest.raises(LabelConfigError, match="label config cannot be read") as caught:
        parse(xml)
    assert repr(xml[:80]) in str(caught.value)


def test_a_region_that_does_not_fit_is_described() -> None:
    config = parse(
        '<View><Image name="i" value="$i"/><Choices name="c" toName="i"><Choice value="a"/></Choices></View>'
    )
    region = {"from_name": "c", "to_name": "i", "type": "choices", "value": {"choices": ["a"]}}
    assert config.find_region_errors(region) == []
    assert "valid labels: ['a']" in config.find_region_errors(region | {"value": {"choices": ["b"]}})[0]
    assert config.find_region_errors(region | {"from_name": "other"})
