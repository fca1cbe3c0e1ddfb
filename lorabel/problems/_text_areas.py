"""Problems whose answer is a text in a `<TextArea>`: how it is read from annotations, and how it is scored."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from lorabel.contracts import Contract
from lorabel.errors import MissingTargetError
from lorabel.problems import _correctness
from lorabel.problems._answers import shown
from lorabel.problems.base import Problem
from lorabel.text_contracts import TextTarget, WrittenText


@dataclass(frozen=True)
class TextArea(Problem):
    """A text of any words, with the probability that it is right."""

    output_type: ClassVar[type[Contract]] = WrittenText
    has_offset: ClassVar[bool] = True

    def _texts(self, value: dict[str, Any]) -> list[str]:
        """The texts in a value of the control tag. Imported annotations may have one that is not in a list."""
        answer = value.get("text", [])
        texts = [answer] if isinstance(answer, str) else answer
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise MissingTargetError(f"{self.from_name!r} was answered {shown(answer)}, expected texts")
        return texts

    def distributions(self, output: WrittenText) -> Sequence[Sequence[float]]:
        """Return (right, not right)."""
        return (_correctness.distribution(output),)

    def calibrated(self, output: WrittenText, temperature: float) -> WrittenText:
        """Return the output with temperature scaling; see `Problem.calibrated`."""
        return _correctness.calibrated(output, temperature, 0.0)

    def calibrated_with_offset(self, output: WrittenText, temperature: float, offset: float) -> WrittenText:
        """Return the output with the calibrated probability that the text is right."""
        return _correctness.calibrated(output, temperature, offset)

    def perfect_output(self, target: TextTarget) -> WrittenText:
        """Return the text itself with probability 1."""
        return WrittenText(text=target.text, probability=1.0)
