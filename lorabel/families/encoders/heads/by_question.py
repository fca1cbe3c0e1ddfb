"""Which head answers which kind of question, in every encoder, and where its layer is."""

from collections.abc import Mapping
from types import MappingProxyType

from lorabel.contracts import Input, LabelsInput, RankingInput, RatingInput
from lorabel.families.encoders.heads.base import Head
from lorabel.families.encoders.heads.labels import LabelHead
from lorabel.families.encoders.heads.ranking import RankingHead
from lorabel.families.encoders.heads.rating import RatingHead

HEADS: Mapping[type[Input], Head] = MappingProxyType(
    {LabelsInput: LabelHead(), RatingInput: RatingHead(), RankingInput: RankingHead()}
)
"""Where contents lie (`EmbedInput`) is asked of the encoder itself."""
HEAD_LAYERS = "heads"


def layer_of(head: Head) -> str:
    """Its name among the `lora_layers`."""
    return f"{HEAD_LAYERS}.{head.layer}"
