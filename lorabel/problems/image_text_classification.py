"""`<Choices>`, single or multiple, over a picture and a text: labels for the pair.

Each of the two counts by itself. What they say about each other ("match", "mismatch") cannot be learned; see
docs/learning.md.

The control tag names both (`toName="image,text"`), or it names one of them and the label config shows the other.
"""

from dataclasses import dataclass
from typing import ClassVar

from lorabel.contracts import Modality
from lorabel.labeling.regions import choices
from lorabel.problems._choices import ChoicesProblem
from lorabel.problems.base import Sample


@dataclass(frozen=True)
class ImageTextClassification(ChoicesProblem):
    """Classification of a picture together with a text."""

    name: ClassVar[str] = "image_text_classification"
    modalities: ClassVar[frozenset[Modality]] = frozenset({Modality.IMAGE, Modality.TEXT})
    SAMPLES: ClassVar[tuple[Sample, ...]] = (
        Sample(
            label_config='<View><Image name="image" value="$image"/><Text name="text" value="$text"/>'
            '<Choices name="label" toName="image,text"><Choice value="broken"/><Choice value="fine"/>'
            "</Choices></View>",
            data={"image": "/data/upload/1/parcel.png", "text": "The corner is wet."},
            result=[choices("label", "image", ["broken"])],
            opposite=[choices("label", "image", ["fine"])],
        ),
        Sample(
            label_config='<View><Image name="image" value="$image"/><Text name="caption" value="$caption"/>'
            '<Choices name="label" toName="image"><Choice value="animal"/><Choice value="vehicle"/>'
            "</Choices></View>",
            data={"image": "/data/upload/1/cat.png", "caption": "A cat on a mat."},
            result=[choices("label", "image", ["animal"])],
            opposite=[choices("label", "image", ["vehicle"])],
        ),
    )
