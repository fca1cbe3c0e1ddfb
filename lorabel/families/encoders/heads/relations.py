"""The head of relations between regions of a picture: nothing is related until a head was fitted."""

from collections.abc import Sequence
from typing import Any, ClassVar, NoReturn

from torch import Tensor

from lorabel.families.encoders.heads.base import Head, HeadParameters
from lorabel.families.encoders.heads.labels import LabelHead
from lorabel.relation_contracts import Relations


class RelationHead(Head):
    """Finds no relation. It has the layer of the head for labels, so that the encoders get no other one."""

    layer: ClassVar[str] = LabelHead.layer

    def size(self, dim: int) -> tuple[int, int]:
        """Return the size of the layer of the head for labels."""
        return LabelHead().size(dim)

    def is_learned(self, question: Any) -> bool:
        """Return False: only fitted heads learn relations."""
        return False

    def output(self, question: Any, contents: Tensor, parameters: HeadParameters) -> Relations:
        """Find nothing."""
        return Relations(relations=())

    def losses(
        self, question: Any, contents: Tensor, parameters: HeadParameters, targets: Sequence[Any]
    ) -> NoReturn:
        """Refuse to be trained.

        Raises:
            TypeError: always.
        """
        raise TypeError("relations are learned by fitted heads alone")
