"""Maps each kind of question to its head, the same for every encoder, and names the heads' layers."""

from collections.abc import Mapping
from types import MappingProxyType

from lorabel.contracts import Input, LabelsInput, RankingInput, RatingInput
from lorabel.families.encoders.heads.base import Head
from lorabel.families.encoders.heads.each import EachLabelHead, EachRatingHead
from lorabel.families.encoders.heads.labels import LabelHead
from lorabel.families.encoders.heads.ranking import RankingHead
from lorabel.families.encoders.heads.rating import RatingHead
from lorabel.families.encoders.heads.relations import RelationHead
from lorabel.families.encoders.heads.segments import SegmentHead
from lorabel.feature_contracts import (
    EachFeaturesInput,
    FeaturesInput,
    PictureRelationFeaturesInput,
    SegmentFeaturesInput,
)
from lorabel.region_contracts import EachLabelsInput, EachRatingInput
from lorabel.relation_contracts import PictureRelationsInput
from lorabel.time_contracts import SegmentsInput

LABEL_HEAD, EACH_LABEL_HEAD, SEGMENT_HEAD = LabelHead(), EachLabelHead(), SegmentHead()
RELATION_HEAD = RelationHead()
HEADS: Mapping[type[Input], Head] = MappingProxyType(
    {
        LabelsInput: LABEL_HEAD,
        EachLabelsInput: EACH_LABEL_HEAD,
        RatingInput: RatingHead(),
        EachRatingInput: EachRatingHead(),
        RankingInput: RankingHead(),
        SegmentsInput: SEGMENT_HEAD,
        PictureRelationsInput: RELATION_HEAD,
        FeaturesInput: LABEL_HEAD,
        EachFeaturesInput: EACH_LABEL_HEAD,
        SegmentFeaturesInput: SEGMENT_HEAD,
        PictureRelationFeaturesInput: RELATION_HEAD,
    }
)
"""`EmbedInput` is missing: the encoder answers it without a head. Questions for features need logits of labels."""
HEAD_LAYERS = "heads"
"""Name of the submodule that holds the layers of all heads."""


def layer_name(head: Head) -> str:
    """Return the full name of the head's layer, as in `Family.lora_layers`."""
    return f"{HEAD_LAYERS}.{head.layer}"
