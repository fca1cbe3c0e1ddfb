import pytest

from lorabel.contracts import LabelScores, LabelTarget, Modality
from lorabel.errors import MissingTargetError, UnreadableError
from lorabel.labeling.regions import Region, choices
from lorabel.problems.binding import bind
from lorabel.problems.text_classification import TextClassification

CHOICES = '<Choices name="c" toName="t"><Choice value="Sport"/><Choice value="COOKING" alias="Kitchen"/></Choices>'


@pytest.mark.parametrize("tag", ["Text", "HyperText", "Paragraphs"])
def test_choices_on_each_kind_of_text_are_served(tag: str) -> None:
    (binding,) = bind(f'<View><{tag} name="t" value="$t"/>{CHOICES}</View>').bindings
    assert isinstance(binding, TextClassification)
    assert binding.model_input(
        {"t": [{"author": "A", "text": "b"}] if tag == "Paragraphs" else "b"}
    ).modalities == {Modality.TEXT}


def test_labels_are_matched_in_any_case_and_predicted_as_the_label_config_spells_them() -> None:
    (binding,) = bind(f'<View><Text name="t" value="$t"/>{CHOICES}</View>').bindings
    assert binding.target([choices("c", "t", ["sPORT"])], {}) == LabelTarget((0,))
    assert binding.target([choices("c", "t", ["KITCHEN"])], {}) == LabelTarget((1,))
    (region,) = binding.prediction(LabelScores(probabilities=(0.1, 0.9)), {}).regions
    assert region["value"]["choices"] == ["Kitchen"]


LIKE = '<Choice value="us"/><Choice value="US"/><Choice value="uk" alias="GB"/><Choice value="gb" alias="x"/>'


@pytest.mark.parametrize(
    ("value", "index"),
    [
        ("US", 1),
        ("us", 0),
        ("Us", None),
        ("UK", 2),
        ("uk", 2),
        ("GB", 2),
        ("gb", 3),
        ("Gb", None),
        ("X", 3),
        (7, None),
    ],
)
def test_labels_that_differ_by_case_are_told_apart_by_value_and_by_alias(value: object, index: int | None) -> None:
    config = '<View><Text name="t" value="$t"/><Choices name="c" toName="t">' + LIKE + "</Choices></View>"
    (binding,) = bind(config).bindings
    result: list[Region] = [{"from_name": "c", "to_name": "t", "type": "choices", "value": {"choices": [value]}}]
    if index is None:
        with pytest.raises(MissingTargetError, match="the label config no longer has"):
            binding.target(result, {})
    else:
        assert binding.target(result, {}) == LabelTarget((index,))


def test_the_model_reads_the_text_without_markup() -> None:
    (binding,) = bind(f'<View><HyperText name="t" value="$page"/>{CHOICES}</View>').bindings
    question = binding.model_input({"page": "<h1>Final</h1><p>They <b>won</b>.</p>"})
    assert [content.text for content in question.contents] == ["Final\nThey won."]


@pytest.mark.parametrize(
    ("data", "texts"),
    [
        ({"a": "first", "b": "second"}, ["first", "second"]),
        ({"a": "first"}, ["first"]),
        ({"a": None, "b": "second"}, ["second"]),
        ({"a": "  ", "b": 0}, ["0"]),
    ],
)
def test_a_missing_text_of_several_is_left_out(data: dict[str, object], texts: list[str]) -> None:
    choices = CHOICES.replace('"t"', '"a,b"')
    xml = f'<View><Text name="a" value="$a"/><Text name="b" value="$b"/>{choices}</View>'
    (binding,) = bind(xml).bindings
    assert [content.text for content in binding.model_input(data).contents] == texts


def test_a_task_without_any_of_the_texts_is_unreadable() -> None:
    choices = CHOICES.replace('"t"', '"a,b"')
    xml = f'<View><Text name="a" value="$a"/><Text name="b" value="$b"/>{choices}</View>'
    (binding,) = bind(xml).bindings
    with pytest.raises(UnreadableError, match="task data has no text under 'a'"):
        binding.model_input({"b": ""})
