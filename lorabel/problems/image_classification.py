"""`<Choices>`, single or multiple, or `<Taxonomy>` over one or several `<Image>`s: labels for the pictures."""

from dataclasses import dataclass
from typing import ClassVar

from lorabel.contracts import Modality
from lorabel.labeling.regions import choices, taxonomy
from lorabel.problems._choices import ChoicesProblem
from lorabel.problems.base import Sample


@dataclass(frozen=True)
class ImageClassification(ChoicesProblem):
    """Classification of one or several pictures."""

    name: ClassVar[str] = "image_classification"
    modalities: ClassVar[frozenset[Modality]] = frozenset({Modality.IMAGE})
    SAMPLES: ClassVar[tuple[Sample, ...]] = (
        Sample(
            label_config='<View><Image name="image" value="$image"/><Choices name="label" toName="image">'
            '<Choice value="red"/><Choice value="blue"/></Choices></View>',
            data={"image": "/data/upload/1/red.png"},
            result=[choices("label", "image", ["red"])],
            opposite=[choices("label", "image", ["blue"])],
        ),
        Sample(
            label_config='<View><Image name="image" value="$image"/><Taxonomy name="kind" toName="image" '
            'leafsOnly="true"><Choice value="animal"><Choice value="cat"/><Choice value="dog"/></Choice>'
            '<Choice value="plant"><Choice value="tree"/></Choice></Taxonomy></View>',
            data={"image": "/data/upload/1/cat.png"},
            result=[taxonomy("kind", "image", [["animal", "cat"]])],
            opposite=[taxonomy("kind", "image", [["plant", "tree"]])],
        ),
    )
