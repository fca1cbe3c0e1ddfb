"""`<Choices>`, single or multiple, over an `<Audio>`: labels for the whole recording."""

from dataclasses import dataclass
from typing import ClassVar

from lorabel.contracts import Modality
from lorabel.labeling.regions import choices
from lorabel.problems._choices import ChoicesProblem
from lorabel.problems.base import Sample


@dataclass(frozen=True)
class AudioClassification(ChoicesProblem):
    """Classification of a sound recording."""

    name: ClassVar[str] = "audio_classification"
    modalities: ClassVar[frozenset[Modality]] = frozenset({Modality.AUDIO})
    SAMPLES: ClassVar[tuple[Sample, ...]] = (
        Sample(
            label_config='<View><Audio name="audio" value="$audio"/><Choices name="label" toName="audio">'
            '<Choice value="high"/><Choice value="low"/></Choices></View>',
            data={"audio": "/data/upload/1/high.wav"},
            result=[choices("label", "audio", ["high"])],
            opposite=[choices("label", "audio", ["low"])],
        ),
    )
