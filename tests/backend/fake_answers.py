"""What the fake model server answers to questions for explanations, boxes and masks."""

import math

from lorabel.contracts import Content, Modality
from lorabel.explanation_contracts import ContentWeights, Explanation, ExplanationInput, Fit, WordWeight
from lorabel.labeling.words import find_words
from lorabel.mask_contracts import Mask, Masks, MasksInput
from lorabel.space_contracts import Box, Boxes, BoxesInput, Nearness

# Width and height of each picture that is explained, in pixels.
EXPLAINED_SIZE = (800, 400)
SURE = 0.9
# What is found in every picture.
BOXES = Boxes(boxes=(Box(corners=(0.25, 0.25, 0.5, 0.75), label=0, probability=0.9),), width=400, height=200)


def explained(question: ExplanationInput) -> Explanation:
    """The upper right of each picture speaks for the answer, and each word that names a label.

    A file with a text says its name. Each piece has its share of the same weights.
    """
    texts = [texts[0] for texts in question.labels]
    if not texts:
        return Explanation(label=None, score=4.0, contents=(ContentWeights(),) * len(question.contents))
    shown = shown_by(question.contents[0])
    label = question.label
    if label is None:
        label = next((index for index, text in enumerate(texts) if text in shown), 0)
    share = 1 / question.pieces
    contents = []
    for content in question.contents:
        if content.modality != Modality.TEXT:
            heat = ((-share / 2, share), (0.0, 0.0))
            contents.append(ContentWeights(weight=share, heat=heat, fit=Fit.MIDDLE, size=EXPLAINED_SIZE))
            continue
        text = shown_by(content)
        words = tuple(
            WordWeight(start=start, end=end, weight=share * (text[start:end] in texts))
            for start, end in find_words(text)
        )
        contents.append(ContentWeights(weight=3 * share, text=text, words=words))
    return Explanation(label=label, score=SURE, contents=tuple(contents))


def found_boxes(question: BoxesInput) -> Boxes:
    """BOXES; explained, the first label is as near as its box is likely, and each other one farther."""
    if not question.is_explained:
        return BOXES
    near = math.log(SURE / (1 - SURE))
    nearness = Nearness(answering=tuple(near - 2 * index for index in range(len(question.labels))))
    return BOXES.model_copy(
        update={"boxes": tuple(box.model_copy(update={"nearness": nearness}) for box in BOXES.boxes)}
    )


def prompted_masks(question: MasksInput) -> Masks:
    """For each prompt the upper left quarter of a picture of 4 x 2 pixels."""
    masks = tuple(Mask(label=prompt.label, runs=(0, 2, 6), probability=SURE) for prompt in question.prompts)
    return Masks(masks=masks, width=4, height=2)


def shown_by(content: Content) -> str:
    """What a content shows: the name of its file, with the place of a part; or its text."""
    if content.media is None:
        return str(content.text)
    place = "" if content.part is None else f"#{content.part.x}"
    return content.media.url.rsplit("/", 1)[-1] + place
