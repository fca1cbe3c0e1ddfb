import pytest

from lorabel.contracts import LabelScores, LabelTarget, Modality
from lorabel.labeling.regions import choices
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


def test_the_model_reads_the_text_without_markup() -> None:
    (binding,) = bind(f'<View><HyperText name="t" value="$page"/>{CHOICES}</View>').bindings
    question = binding.model_input({"page": "<h1>Final</h1><p>They <b>won</b>.</p>"})
    assert [content.text for content in question.contents] == ["Final\nThey won."]
