"""A question that a generator has made ready to be answered."""

from dataclasses import dataclass

from torch import Tensor

from lorabel.families.generation.answer_forms import ScoredForm, WrittenForm
from lorabel.families.generation.constraints import Constraint
from lorabel.families.generation.label_scoring import Branches
from lorabel.families.generation.pictures import Picture
from lorabel.text_contracts import Written


@dataclass(frozen=True)
class PreparedInput:
    """A question as tokens.

    Args:
        prompt: all tokens up to where the model writes.
        left_out_tokens: see `WrittenText`.
        max_new_tokens: of the answer.
        pictures: in the order of their tokens in the prompt.
        positions: see `rope_positions`.
        form: what an answer may be, and how it is read; None for any text.
        branches: the texts of a form whose texts are scored.
    """

    question: Written
    prompt: tuple[int, ...]
    left_out_tokens: int
    max_new_tokens: int
    pictures: tuple[Picture, ...] = ()
    positions: Tensor | None = None
    form: WrittenForm | ScoredForm | None = None
    branches: Branches | None = None

    @property
    def constraint(self) -> Constraint | None:
        """What may be written; None for any text."""
        return None if self.form is None or isinstance(self.form, ScoredForm) else self.form.constraint
