"""What a model that writes is told about the form of an answer, beside the instruction."""

from collections.abc import Sequence
from typing import Any, TypeVar

from lorabel.contracts import Content, Input, Modality
from lorabel.problems.instructions import Asking

# Between the labels of a path in a taxonomy. The family writes paths so (lorabel/families/generation).
BELOW = " > "
# More labels are not listed: the model learns them from what people answer.
MOST_LISTED = 100

Asked = TypeVar("Asked", bound=Input)


def written_instruction(asking: Asking, default: str, form: str) -> str:
    """The instruction of the project or the label config, or else a default, and the form of the answer."""
    return f"{asking.instruction or default}\n{form}"


def written_if_text(kind: type[Asked], question: Input, instruction: str, **fields: Any) -> Asked | None:
    """The question for a model that writes; None if it has other contents than texts, which the model must read.

    Args:
        fields: of the question. `contents` are those of `question` unless they are among them.
    """
    contents: Sequence[Content] = fields.pop("contents", question.contents)
    if any(content.modality != Modality.TEXT for content in contents):
        return None
    return kind(contents=tuple(contents), instruction=instruction, **fields)


def one_of(names: Sequence[str]) -> str:
    """Of one label."""
    listed = f": {'; '.join(names)}." if len(names) <= MOST_LISTED else "."
    return f"Answer with one label{listed}"


def yes_or_no(names: Sequence[str]) -> str:
    """Of any number of labels."""
    listed = f": {'; '.join(names)}." if len(names) <= MOST_LISTED else "."
    return f"Say yes or no for each label{listed}"


def number_between(minimum: float | None, maximum: float | None) -> str:
    """Of a number."""
    bounds = [
        f"{word} {value:g}" for word, value in (("at least", minimum), ("at most", maximum)) if value is not None
    ]
    return f"Answer with a number{', ' + ' and '.join(bounds) if bounds else ''}."


def spans_of(names: Sequence[str]) -> str:
    """Of spans with labels."""
    return f"Copy each part of the text that one of these names, with its label before it: {'; '.join(names)}."
