"""A toy problem: `<TextArea>` over `<Chat>`: the number of exclamation marks in the dialogue."""

from dataclasses import dataclass
from typing import ClassVar

from lorabel.contracts import Contract, Input
from lorabel.evaluation.metrics import Metrics
from lorabel.problems.base import Prediction, Problem, Sample


class Words(Input):
    """Asks how many exclamation marks the text has. Answer: `Stars`."""

    kind: ClassVar[str] = "words"
    text: str


class Stars(Contract):
    """Answer to `Words`. A target is the right number, a float."""

    kind: ClassVar[str] = "stars"
    number: float


@dataclass(frozen=True)
class Shouting(Problem):
    """A number for a text; `data_key` is the key of the text in a task's data."""

    name: ClassVar = "shouting"
    zero_shot: ClassVar = "A number without meaning."
    learns: ClassVar = "How many stars a text gets for its exclamation marks."
    input_type: ClassVar = Words
    output_type: ClassVar = Stars
    SAMPLES: ClassVar = (
        Sample(
            '<View><Chat name="t" value="$text"/><TextArea name="stars" toName="t"/></View>',
            {"text": "hey!"},
            [{"from_name": "stars", "to_name": "t", "type": "textarea", "value": {"text": ["1"]}}],
            [],
        ),
    )
    data_key: str = ""

    @classmethod
    def match(cls, control):
        if control.tag != "TextArea" or control.objects[0].tag != "Chat":
            return None
        return cls(control.name, control.objects[0].name, control.objects[0].data_key)

    def model_input(self, data):
        return Words(text=data[self.data_key])

    def prediction(self, output, data):
        value = {"text": [str(round(output.number))]}
        region = {"from_name": self.from_name, "to_name": self.to_name, "type": "textarea", "value": value}
        return Prediction([region], 1.0)

    def target(self, result, data):
        return float(result[0]["value"]["text"][0])

    def perfect_output(self, target):
        return Stars(number=target)

    def metrics(self, targets, outputs):
        errors = [abs(t - o.number) for t, o in zip(targets, outputs, strict=True)]
        return Metrics("negative_error", {"tasks": len(targets), "negative_error": -sum(errors) / len(errors)})
