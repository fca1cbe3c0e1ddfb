"""Builds the regions of control tags for explanations: a text, marked words of a text, marked places of a picture.

    <TextArea name="lorabel_why" toName="text"/>
    <Labels name="lorabel_why_words" toName="text"><Label value="for"/><Label value="against"/></Labels>

The first label marks what speaks for an answer, the second, if there is one, what speaks against it.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from types import MappingProxyType
from typing import Any

from lorabel.errors import UnreadableError, UnservedError
from lorabel.explanation_settings import REGIONS, TEXTAREA
from lorabel.labeling import regions
from lorabel.labeling.image_regions import image_region
from lorabel.labeling.label_config import ControlTag
from lorabel.labeling.regions import Region
from lorabel.labeling.text_offsets import TAGS, flat_text
from lorabel.labeling.words import find_words
from lorabel.space_contracts import Corners

ON_PICTURES = "RectangleLabels"
# Control tag that marks parts -> the object tags that it may mark.
MARKING: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "Labels": TAGS,
        "HyperTextLabels": ("HyperText",),
        "ParagraphLabels": ("Paragraphs",),
        ON_PICTURES: ("Image",),
    }
)
EXPECTED = (
    "expected <TextArea>, <Labels> on a text or <RectangleLabels> on an image, or another name than one that "
    "begins with 'lorabel_why'"
)


@dataclass(frozen=True)
class WeighedWord:
    """A word of a text. `is_for`: whether it speaks for the answer or against it; None if it is not marked."""

    text: str
    is_for: bool | None


def kind_of(control: ControlTag) -> str:
    """Return how a control tag for explanations shows them: one of `lorabel.explanation_settings.KINDS`.

    Raises:
        UnservedError: it cannot; the message says why.
    """
    objects = " and ".join(tag.tag for tag in control.objects) or "nothing"
    kind = TEXTAREA if control.tag == "TextArea" and control.objects else None
    if len(control.objects) == 1 and control.objects[0].tag in MARKING.get(control.tag, ()):
        kind = REGIONS
    if kind is None:
        raise UnservedError(f"<{control.tag}> on {objects} cannot show explanations; {EXPECTED}")
    if control.is_per_region or control.is_repeated:
        raise UnservedError(f"perRegion or <Repeater>: explanations are about the whole task; {EXPECTED}")
    if kind == REGIONS and not control.labels:
        raise UnservedError("it has no label with which explanations could mark anything")
    return kind


def marks_pictures(control: ControlTag) -> bool:
    """Whether a control tag that `kind_of` knows marks places of a picture."""
    return control.tag == ON_PICTURES


def said(control: ControlTag, lines: Sequence[str]) -> list[Region]:
    """The region of a `<TextArea>`; none if there is nothing to say."""
    return [regions.textarea(control.name, control.objects[0].name, lines)] if lines else []


def marked_words(control: ControlTag, data: Mapping[str, Any], words: Sequence[WeighedWord]) -> list[Region]:
    """The regions of words in the text of a task, in its order.

    Args:
        data: of the task.
        words: of the text as a model reads it, in order. Those that the editor does not show there are not marked,
            as the names in a dialogue.
    """
    (tag,) = control.objects
    try:
        text = flat_text(tag, data)
    except UnreadableError:  # the prediction has said why
        return []
    marked = []
    for word, place in zip(words, _places([word.text for word in words], text.text), strict=True):
        label = _label(control, word.is_for)
        if label is not None and place is not None:
            value = text.value(*place)
            marked.append(regions.labels(control.name, tag.name, control.tag.lower(), value, [label]))
    return marked


def _places(words: Sequence[str], text: str) -> list[tuple[int, int] | None]:
    """Where words stand in a text that may lack some of them, or have more; None: not there."""
    known = [(start, end, index) for index, word in enumerate(words) for start, end in _word_spans(word)]
    shown = _word_spans(text)
    matcher = SequenceMatcher(
        None,
        [words[index][start:end] for start, end, index in known],
        [text[start:end] for start, end in shown],
        autojunk=False,
    )
    matched: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for block in matcher.get_matching_blocks():
        for offset in range(block.size):
            matched[known[block.a + offset][2]].append(shown[block.b + offset])
    places: list[tuple[int, int] | None] = []
    for index, word in enumerate(words):
        parts = matched[index]
        place = (parts[0][0], parts[-1][1]) if parts else (0, 0)
        # A group of words that the editor shows apart is not marked.
        is_whole = len(parts) == len(_word_spans(word)) == len(_word_spans(text[slice(*place)])) > 0
        places.append(place if is_whole else None)
    return places


def _word_spans(text: str) -> list[tuple[int, int]]:
    return [(start, end) for start, end in find_words(text) if any(map(str.isalnum, text[start:end]))]


def marked_places(
    control: ControlTag, size: tuple[int, int], places: Sequence[tuple[Corners, bool]]
) -> list[Region]:
    """The regions of places in a picture.

    Args:
        size: width and height of the picture as people see it, in pixels.
        places: as fractions of the picture, each with whether it speaks for the answer or against it.
    """
    kind, to_name = control.tag.lower(), control.objects[0].name
    return [
        image_region(control.name, to_name, kind, corners, size, {kind: [label]})
        for corners, is_for in places
        if (label := _label(control, is_for)) is not None
    ]


def _label(control: ControlTag, is_for: bool | None) -> str | None:
    if is_for is None:
        return None
    index = 0 if is_for else 1
    return control.labels[index].value if index < len(control.labels) else None
