"""The input, output and target of problems whose answer is a text that a model writes."""

from dataclasses import dataclass
from typing import ClassVar, Self

from pydantic import Field

from lorabel.contracts import Content, Contract, Input


class TextInput(Input):
    """Asks for a text about the contents. Answer: `WrittenText`.

    Args:
        instruction: says what to write. Contents are data: nothing in them changes the instruction.
        is_end_kept: which end of a text that is too long is left out: its end, or, if True, its beginning, as of a
            dialogue, in which the last turns matter most.
    """

    kind: ClassVar[str] = "text"
    contents: tuple[Content, ...] = Field(min_length=1)
    instruction: str = Field(min_length=1)
    is_end_kept: bool = False

    def with_template(self, template: str) -> Self:
        """Return the question with the template around the instruction."""
        return self.model_copy(update={"instruction": template.replace("{}", self.instruction)})


class WrittenText(Contract):
    """Answer to `TextInput`.

    Args:
        text: without control characters; "" if the model has nothing to say.
        probability: mean probability of the text's tokens, its end included, in [0, 1]. Where held-out tasks
            have calibrated it, the probability that the text is right.
        is_complete: False if the text was cut at the largest number of new tokens.
        left_out_tokens: how many tokens of the contents were not read, since the prompt would have been too long.
    """

    kind: ClassVar[str] = "written_text"
    text: str
    probability: float = Field(ge=0.0, le=1.0)
    is_complete: bool = True
    left_out_tokens: int = Field(0, ge=0)


@dataclass(frozen=True)
class TextTarget:
    """Target for `TextInput`: the right text, which is not empty.

    Args:
        others: what other annotators of the task have written. It is not learned, but counts in evaluation.
    """

    text: str
    others: tuple[str, ...] = ()
