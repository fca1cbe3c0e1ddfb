import pytest

from lorabel.labeling.label_config import parse
from lorabel.labeling.regions import Region, choices, rating, taxonomy
from lorabel.labeling.visible_when import shown_controls
from lorabel.problems.binding import bind

CONFIG = """<View><Image name="image" value="$image"/>
  <Choices name="kind" toName="image"><Choice value="animal"/><Choice value="thing"/></Choices>
  <View visibleWhen="choice-selected" whenTagName="kind" whenChoiceValue="animal,plant">
    <Choices name="animal" toName="image"><Choice value="cat"/><Choice value="dog"/></Choices>
    <Choices name="breed" toName="image" visibleWhen="choice-selected" whenTagName="animal" whenChoiceValue="dog">
      <Choice value="pug"/><Choice value="husky"/></Choices>
  </View>
  <Choices name="other" toName="image" visibleWhen="choice-unselected" whenTagName="kind" whenChoiceValue="animal">
    <Choice value="cup"/><Choice value="car"/></Choices>
</View>"""


def answers(**chosen: str) -> dict[str, list[Region]]:
    return {name: [choices(name, "image", [value])] for name, value in chosen.items()}


@pytest.mark.parametrize(
    ("kind", "animal", "shown"),
    [
        ("animal", "dog", {"kind", "animal", "breed"}),
        ("animal", "cat", {"kind", "animal"}),
        ("thing", "dog", {"kind", "other"}),
    ],
)
def test_a_control_tag_with_a_condition_is_shown_only_with_the_answer_that_it_names(
    kind: str, animal: str, shown: set[str]
) -> None:
    all_answers = answers(kind=kind, animal=animal, breed="pug", other="cup")
    assert shown_controls(parse(CONFIG), all_answers) == shown


def test_a_condition_that_names_no_choice_holds_for_any_choice() -> None:
    config = CONFIG.replace(' whenChoiceValue="animal,plant"', "")
    assert "animal" in shown_controls(parse(config), answers(kind="thing", animal="cat"))


ALIASES = """<View><Text name="t" value="$t"/>
  <Choices name="kind" toName="t"><Choice value="crack" alias="C3"/><Choice value="c3"/></Choices>
  <Taxonomy name="tree" toName="t"><Choice value="machine"><Choice value="belt" alias="B"/></Choice></Taxonomy>
  <Rating name="stars" toName="t" {}/></View>"""


@pytest.mark.parametrize(
    ("condition", "kind", "is_shown"),
    [
        ('whenTagName="kind" whenChoiceValue="crack"', "C3", True),
        ('whenTagName="kind" whenChoiceValue="C3"', "C3", True),
        ('whenTagName="kind" whenChoiceValue="c3"', "C3", False),
        ('whenTagName="kind" whenChoiceValue="CRACK"', "C3", False),
        # The editor does not strip the values.
        ('whenTagName="kind" whenChoiceValue="c3, crack"', "C3", False),
        ('whenTagName="tree" whenChoiceValue="belt"', "c3", True),
        ('whenTagName="tree" whenChoiceValue="B"', "c3", True),
        # Only the end of a path counts.
        ('whenTagName="tree" whenChoiceValue="machine"', "c3", False),
        # Without a tag, any answer of a Choices counts, whatever it is.
        ('whenChoiceValue="other"', "c3", True),
        ("", "c3", True),
    ],
)
def test_a_condition_names_a_choice_by_its_value_or_by_its_alias(
    condition: str, kind: str, is_shown: bool
) -> None:
    config = parse(ALIASES.format(f'visibleWhen="choice-selected" {condition}'))
    all_answers = {
        "kind": [choices("kind", "t", [kind])],
        "tree": [taxonomy("tree", "t", [["machine", "B"]])],
        "stars": [rating("stars", "t", 3)],
    }
    assert ("stars" in shown_controls(config, all_answers)) == is_shown


def test_without_a_tag_only_choices_count() -> None:
    config = parse(ALIASES.format('visibleWhen="choice-selected"'))
    all_answers = {"tree": [taxonomy("tree", "t", [["machine"]])], "stars": [rating("stars", "t", 3)]}
    assert shown_controls(config, all_answers) == {"tree"}


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ('visibleWhen="region-selected"', "visibleWhen='region-selected': it depends on what a person selects"),
        ('perRegion="true"', "perRegion: no control tag draws boxes, ellipses or polygons on 'image'"),
        ('perItem="true"', "perItem: it asks about each item of a list"),
    ],
)
def test_a_control_tag_that_depends_on_what_a_person_selects_or_draws_is_unclaimed_with_the_reason(
    attributes: str, reason: str
) -> None:
    config = (
        f'<View><Image name="image" value="$image"/><Choices name="label" toName="image" {attributes}>'
        '<Choice value="a"/><Choice value="b"/></Choices></View>'
    )
    (unclaimed,) = bind(config).unclaimed
    assert unclaimed.reason == reason


@pytest.mark.parametrize(
    "value", [None, "animal", {"choices": None}, {"choices": "animal"}, {"choices": [None, []]}]
)
def test_an_odd_value_is_no_choice(value: object) -> None:
    odd_answers = {"kind": [{"from_name": "kind", "value": value}], **answers(animal="dog", other="cup")}
    assert shown_controls(parse(CONFIG), odd_answers) == {"kind", "other"}
