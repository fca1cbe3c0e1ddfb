"""`<Choices>`, single or multiple, over a `<Video>`: labels for the whole video.

Before anything is annotated they are scored by its frames. Heads then also learn from its sound and from what is
said in it: its subtitles, else its transcript (VIDEO_SOUND, VIDEO_SPEECH).
"""

from dataclasses import dataclass
from typing import ClassVar

from lorabel.contracts import Modality
from lorabel.labeling.regions import choices
from lorabel.problems._choices import ChoicesProblem
from lorabel.problems.base import Sample


@dataclass(frozen=True)
class VideoClassification(ChoicesProblem):
    """Classification of a video."""

    name: ClassVar[str] = "video_classification"
    modalities: ClassVar[frozenset[Modality]] = frozenset({Modality.VIDEO})
    SAMPLES: ClassVar[tuple[Sample, ...]] = (
        Sample(
            label_config='<View><Video name="video" value="$video"/><Choices name="label" toName="video">'
            '<Choice value="red"/><Choice value="blue"/></Choices></View>',
            data={"video": "/data/upload/1/red.mp4"},
            result=[choices("label", "video", ["red"])],
            opposite=[choices("label", "video", ["blue"])],
        ),
    )
