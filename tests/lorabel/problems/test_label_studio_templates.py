"""Whatever Label Studio offers is either served, and then it can be read, or left to people, with the reason."""

import pytest
from label_studio_sdk.label_interface import LabelInterface, control_tags, object_tags

from lorabel.families.loading import family_for
from lorabel.labeling.label_config import RELATIONS_NAME
from lorabel.labeling.task_content import MODALITIES
from lorabel.problems.binding import bind
from tests.label_studio_templates import Template, read

TEMPLATES = read()
CONTROLS = [name.removesuffix("Tag") for name in control_tags._TAG_TO_CLASS.values()]
OBJECTS = [name.removesuffix("Tag") for name in object_tags._TAG_TO_CLASS.values()]
CHAT = {"key": [{"role": "user", "content": "Which pump?"}]}
CHILDREN = '<{0} value="a"/><{0} value="b"/>'


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: template.title)
def test_every_control_tag_of_a_template_is_served_or_named_with_the_reason(template: Template) -> None:
    bound = bind(template.config)
    served = [name for binding in bound.bindings for name in binding.claims]
    unclaimed = [tag.control.name for tag in bound.unclaimed]
    named = [control.name for control in LabelInterface(template.config).controls]
    named += [RELATIONS_NAME] if "<Relations>" in template.config else []
    assert sorted(served + unclaimed) == sorted(named)
    assert all(tag.reason for tag in bound.unclaimed)


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: template.title)
def test_what_is_served_of_a_template_is_read_from_its_sample_task(template: Template) -> None:
    for binding in bind(template.config).bindings:
        assert family_for(binding.model_input(template.sample_data()))


@pytest.mark.parametrize("control", CONTROLS)
@pytest.mark.parametrize("objects", OBJECTS)
def test_every_pair_of_tags_is_read_or_named_with_the_reason(control: str, objects: str) -> None:
    child = "Choice" if control in ("Choices", "Taxonomy") else "Label"
    named = "o,p" if control == "Pairwise" else "o"
    config = (
        f'<View><{objects} name="o" value="$key"/><{objects} name="p" value="$key"/>'
        f'<{control} name="c" toName="{named}">{CHILDREN.format(child)}</{control}></View>'
    )
    bound = bind(config)
    assert len(bound.bindings) + len(bound.unclaimed) == len(bound.config.controls) > 0
    for binding in bound.bindings:
        assert objects in MODALITIES or objects in ("List", "Chat")
        # Label Studio's own sample fails where ReactCode has no value.
        sample = CHAT if objects == "Chat" else Template("", "", config).sample_data()
        assert family_for(binding.model_input(sample))


REPEATED = """<View><Image name="one" value="$image"/>
  <Choices name="all" toName="one"><Choice value="a"/></Choices>
  <Repeater on="$items" indexFlag="{{i}}"><Text name="text_{{i}}" value="$items[{{i}}].text"/>
    <View><Choices name="topic_{{i}}" toName="text_{{i}}"><Choice value="a"/><Choice value="b"/></Choices></View>
  </Repeater><Choices name="first" toName="text_0"><Choice value="a"/><Choice value="b"/></Choices></View>"""


@pytest.mark.parametrize("config", [REPEATED, REPEATED.replace("Repeater", "repeater")])
def test_a_control_tag_that_is_repeated_is_named_with_the_reason(config: str) -> None:
    bound = bind(config)
    assert [binding.from_name for binding in bound.bindings] == ["all"]
    assert {tag.control.name: tag.reason for tag in bound.unclaimed} == {
        "topic_{{i}}": "Repeater: it is asked once for each item of a list",
        "first": "no problem serves Choices on nothing",
    }
    assert len(bound.bindings[0].model_input({"image": "1.png", "items": [{"text": "x"}]}).contents) == 1
