"""The label configs of the speed figures. This module does not import torch."""

LABELS = ("cat", "dog", "bird", "person", "car", "boat", "house", "tree", "food", "something to read")
LABEL_CONFIG = (
    '<View><Image name="image" value="$image"/><Choices name="label" toName="image">'
    + "".join(f'<Choice value="{label}"/>' for label in LABELS)
    + "</Choices></View>"
)
# The same labels, as boxes.
BOXES_CONFIG = (
    '<View><Image name="image" value="$image"/><RectangleLabels name="box" toName="image">'
    + "".join(f'<Label value="{label}"/>' for label in LABELS)
    + "</RectangleLabels></View>"
)
