"""Questions for explanations, and their answers in pieces."""

import pytest

from lorabel.contracts import Content, LabelsInput, MediaRef, Modality
from lorabel.explanation_contracts import ContentWeights, Explanation, ExplanationInput
from lorabel.families.encoders.explaining import ExplainingEncoder
from lorabel.families.loading import family_for, family_types


def test_pieces_about_different_labels_are_not_joined() -> None:
    pieces = [Explanation(label=label, score=0.5, contents=(ContentWeights(),)) for label in (0, 1)]
    with pytest.raises(ValueError, match="different labels"):
        Explanation.joined(pieces)


def test_the_family_that_answers_explains() -> None:
    """Whatever the modalities, the same family is asked for labels and for their explanation."""
    modalities = (Modality.TEXT, Modality.IMAGE, Modality.AUDIO)
    sets = [{each} for each in modalities] + [{Modality.TEXT, Modality.IMAGE}, {Modality.TEXT, Modality.AUDIO}]
    for asked in sets:
        contents = tuple(
            Content(modality=each, text="a")
            if each == Modality.TEXT
            else Content(modality=each, media=MediaRef(url="x"))
            for each in sorted(asked)
        )
        question = LabelsInput(contents=contents, labels=(("a",), ("b",)))
        (explained,) = ExplanationInput.of(question, None, 1)
        assert family_for(explained) is family_for(question)
    assert [family for family in family_types() if issubclass(family, ExplainingEncoder)]
