"""Explanations of answers that are paths in a tree."""

# ruff: noqa: F401, F811 - fixtures of another module

import pytest

from lorabel.contracts import Content, LabelsInput, Modality
from lorabel.explanation_contracts import ExplanationInput
from lorabel.families.text_encoder import TextEncoder
from tests.lorabel.families.encoders.test_explaining import answer, minilm

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("text", "has_leaves_only", "ends"),
    [
        ("a red truck", False, {5}),
        ("a small dog barked", False, {0}),  # none of the three below is likelier than not
        ("a small dog barked", True, {2, 3, 4}),
    ],
)
def test_the_label_is_explained_that_the_path_of_a_taxonomy_ends_at(
    minilm: TextEncoder, text: str, has_leaves_only: bool, ends: set[int]
) -> None:
    question = LabelsInput(
        contents=(Content(modality=Modality.TEXT, text=text),),
        labels=(("an animal",), ("a vehicle",), *[("a dog",)] * 3, ("a truck",), ("a bus",)),
        parents=(-1, -1, 0, 0, 0, 1, 1),
    )
    (asked,) = ExplanationInput.of(question, None, 1, has_leaves_only=has_leaves_only)
    assert answer(minilm, asked).label in ends
