import pytest

from lorabel.errors import LabelConfigError
from lorabel.labeling.label_config import Label, parse


def test_control_tags_come_with_their_objects_labels_and_aliases() -> None:
    config = parse(
        '<View><Image name="image" value="$photo"/><Choices name="label" toName="image" choice="multiple">'
        '<Choice value="crack" alias="C3"/><Choice value="fine"/></Choices></View>'
    )
    (control,) = config.controls
    assert (control.name, control.tag, control.attributes["choice"]) == ("label", "Choices", "multiple")
    assert control.labels == (Label("C3", ("C3",), title="crack"), Label("fine", ("fine",), title="fine"))
    assert [(tag.name, tag.tag, tag.data_key) for tag in control.objects] == [("image", "Image", "photo")]


@pytest.mark.parametrize("xml", ["", "<View>", "no xml", "<View></Voew>"])
def test_an_unreadable_label_config_is_refused_and_the_error_has_its_beginning(xml: str) -> None:
    with pytest.raises(LabelConfigError, match="label config cannot be read") as caught:
        parse(xml)
    assert repr(xml[:80]) in str(caught.value)


def test_a_region_that_does_not_fit_the_label_config_is_described() -> None:
    config = parse(
        '<View><Image name="i" value="$i"/><Choices name="c" toName="i"><Choice value="a"/></Choices></View>'
    )
    region = {"from_name": "c", "to_name": "i", "type": "choices", "value": {"choices": ["a"]}}
    assert config.find_region_errors(region) == []
    assert "valid labels: ['a']" in config.find_region_errors(region | {"value": {"choices": ["b"]}})[0]
    assert config.find_region_errors(region | {"from_name": "other"})


TREE = (
    '<View><Text name="t" value="$t"/><Taxonomy name="c" toName="t">'
    '<Choice value="machine" alias="M"><Choice value="bearing"><Choice value="worn"/></Choice>'
    '<Choice value="belt"/></Choice><Choice value="other"><Choice value="cable" alias="K"/></Choice>'
    "</Taxonomy></View>"
)


def test_the_nodes_of_a_taxonomy_come_with_their_parents() -> None:
    (control,) = parse(TREE).controls
    assert [(label.value, label.parent) for label in control.labels] == [
        ("M", -1),
        ("bearing", 0),
        ("worn", 1),
        ("belt", 0),
        ("other", -1),
        ("K", 4),
    ]


@pytest.mark.parametrize("path", [["M"], ["M", "bearing", "worn"], ["other", "K"]])
def test_a_path_of_the_taxonomy_fits_and_is_written_with_aliases(path: list[str]) -> None:
    assert parse(TREE).find_region_errors(_region([path])) == []


@pytest.mark.parametrize("path", [["worn"], ["worn", "M"], ["other", "belt"], ["M", "worn"], []])
def test_a_list_of_labels_that_is_no_path_of_the_taxonomy_does_not_fit(path: list[str]) -> None:
    (error,) = parse(TREE).find_region_errors(_region([["M"], path]))
    assert error == f"'c' has no path {path!r}"


def test_a_path_with_a_value_in_place_of_its_alias_does_not_fit() -> None:
    assert "valid labels" in parse(TREE).find_region_errors(_region([["machine"]]))[0]


def _region(paths: list[list[str]]) -> dict[str, object]:
    return {"from_name": "c", "to_name": "t", "type": "taxonomy", "value": {"taxonomy": paths}}


def test_labels_of_places_in_a_picture_are_checked_although_the_sdk_expects_a_text() -> None:
    config = parse(
        '<View><Image name="image" value="$image"/><Rectangle name="box" toName="image"/>'
        '<Labels name="label" toName="image"><Label value="Shop"/></Labels></View>'
    )
    place = {"x": 1, "y": 1, "width": 2, "height": 2, "rotation": 0}

    def errors(labels: list[str], to_name: str = "image") -> list[str]:
        region = {"from_name": "label", "to_name": to_name, "type": "labels", "value": {**place, "labels": labels}}
        return config.find_region_errors(region)

    assert errors(["Shop"]) == []
    assert errors(["Total"]) == ["'label' has no label 'Total'"]
    assert errors([]) == ["'label' has no label None"]
    assert errors(["Shop"], "other") == ["'label' does not label 'other'"]


RELATIONS = """<View><Relations choice="single"><Relation value="owns"/><Relation value="knows"/></Relations>
  <Labels name="entity" toName="text"><Label value="Person"/></Labels><Text name="text" value="$text"/></View>"""


def test_the_tag_of_relations_has_the_labels_and_the_object_tags_of_the_others() -> None:
    entity, relations = parse(RELATIONS).controls
    assert (relations.name, relations.tag, relations.is_per_region) == ("<Relations>", "Relations", True)
    assert [label.value for label in relations.labels] == ["owns", "knows"]
    assert relations.objects == entity.objects and relations.siblings == (entity,)
    assert relations.attributes["choice"] == "single" and entity.siblings == ()


def test_of_several_tags_of_relations_the_last_counts_as_in_the_editor() -> None:
    another = '<Relations><Relation value="sold"/></Relations></View>'
    *_, relations = parse(RELATIONS.replace("</View>", another)).controls
    assert [label.value for label in relations.labels] == ["sold"]


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({}, ""),
        ({"direction": "bi", "labels": ["knows", "owns"]}, ""),
        ({"labels": ["stole"]}, "<Relations> has no label 'stole'"),
        ({"direction": "up"}, "a relation has the direction 'up'"),
    ],
)
def test_a_relation_is_checked_by_its_labels_and_its_direction(changed: dict[str, object], error: str) -> None:
    relation = {"type": "relation", "from_id": "a", "to_id": "b", "direction": "right", "labels": ["owns"]}
    assert error in "".join(parse(RELATIONS).find_region_errors(relation | changed))
    assert bool(parse(RELATIONS).find_region_errors(relation | changed)) is bool(error)
