"""Inputs as problems make them, for tests that need no label config."""

from collections.abc import Sequence
from typing import Any

from lorabel.contracts import Content, Input, LabelsInput, MediaRef, Modality
from lorabel.inference.messages import PredictRow


def about_picture(url: str, texts: Sequence[str], is_multiple: bool = False) -> LabelsInput:
    """Which of the label texts fit the picture at the URL? Each text is a label."""
    picture = Content(modality=Modality.IMAGE, media=MediaRef(url=url))
    return LabelsInput(contents=(picture,), labels=tuple((text,) for text in texts), is_multiple=is_multiple)


def about_text(text: str, texts: Sequence[str], is_multiple: bool = False) -> LabelsInput:
    """Which of the label texts fit the text? Each is a label."""
    content = Content(modality=Modality.TEXT, text=text)
    return LabelsInput(contents=(content,), labels=tuple((text,) for text in texts), is_multiple=is_multiple)


def row(question: Input, **changed: Any) -> PredictRow:
    """The question as a row of a request to the model server, with other fields set as given."""
    return PredictRow(**{"kind": question.kind, "input": question.model_dump(mode="json"), **changed})
