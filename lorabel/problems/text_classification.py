"""`<Choices>` or `<Taxonomy>` over a `<Text>`, `<HyperText>` or `<Paragraphs>`: labels for the whole text."""

from dataclasses import dataclass
from typing import ClassVar

from lorabel.contracts import Modality
from lorabel.labeling.regions import choices, taxonomy
from lorabel.problems._choices import ChoicesProblem
from lorabel.problems.base import Sample


@dataclass(frozen=True)
class TextClassification(ChoicesProblem):
    """Classification of a text."""

    name: ClassVar[str] = "text_classification"
    modalities: ClassVar[frozenset[Modality]] = frozenset({Modality.TEXT})
    SAMPLES: ClassVar[tuple[Sample, ...]] = (
        Sample(
            label_config='<View><Text name="text" value="$text"/><Choices name="topic" toName="text">'
            '<Choice value="sport"/><Choice value="politics"/></Choices></View>',
            data={"text": "The striker scored twice in the second half."},
            result=[choices("topic", "text", ["sport"])],
            opposite=[choices("topic", "text", ["politics"])],
        ),
        Sample(
            label_config='<View><HyperText name="page" value="$html"/><Taxonomy name="fault" toName="page">'
            '<Choice value="machine"><Choice value="bearing" alias="B"/><Choice value="belt"/></Choice>'
            '<Choice value="software"/></Taxonomy></View>',
            data={"html": "<p>It <b>squeals</b> when the shaft turns.</p>"},
            result=[taxonomy("fault", "page", [["machine", "B"]])],
            opposite=[taxonomy("fault", "page", [["software"]])],
        ),
        Sample(
            label_config='<View><Paragraphs name="chat" value="$turns" nameKey="who" textKey="said"/>'
            '<Choices name="wishes" toName="chat" choice="multiple"><Choice value="refund"/>'
            '<Choice value="advice"/></Choices></View>',
            data={"turns": [{"who": "Ann", "said": "I want my money back."}, {"who": "Bo", "said": "Of course."}]},
            result=[choices("wishes", "chat", ["refund"])],
            opposite=[choices("wishes", "chat", ["advice"])],
        ),
    )
