"""What is prepared of a question about a text: its words, and its tokens or the states of its words."""

from dataclasses import dataclass

from torch import Tensor

from lorabel.contracts import SpansInput
from lorabel.families.encoders.heads.linear_head import LinearHead
from lorabel.families.spans.windows import Window
from lorabel.feature_contracts import RelationFeaturesInput, SpanFeaturesInput
from lorabel.relation_contracts import RelationsInput

Question = SpansInput | SpanFeaturesInput | RelationsInput | RelationFeaturesInput


@dataclass(frozen=True)
class PreparedInput:
    """A question about a text, tokenized or encoded.

    Args:
        words: (start, end) of each word of the text, in characters.
        digest: digest of the text.
        windows: the tokenized text; empty if the states are there.
        word_states: (words, dim) float32 on the CPU, from the encoder; None if they must still be computed.
        label_features: (labels, dim) float32 of length 1, on the CPU; None if they must still be computed.
        fitted_head: decides about the words in place of the base model alone.
    """

    question: Question
    words: tuple[tuple[int, int], ...]
    digest: str
    windows: tuple[Window, ...] = ()
    word_states: Tensor | None = None
    label_features: Tensor | None = None
    fitted_head: LinearHead | None = None

    @property
    def is_about_relations(self) -> bool:
        """Whether the question is about relations between spans, or about the features for it."""
        return isinstance(self.question, RelationsInput | RelationFeaturesInput)
