"""How near each label is to what is at a place in a picture: why a box has its label."""

from collections.abc import Callable

from torch import Tensor

from lorabel.families.encoders.heads.linear_head import LinearHead
from lorabel.space_contracts import BoxesInput, Nearness


def nearness_of(
    question: BoxesInput, logits: Tensor, text_logits: Tensor, head: LinearHead | None
) -> Callable[[int], Nearness] | None:
    """Return what tells the nearness of all labels to a place, by its index; None if the question does not ask.

    Args:
        logits: (places, labels) of what answers.
        text_logits: (places, labels) of the texts of the labels.
        head: what answers in place of the texts; None if they do.
    """
    if not question.is_explained:
        return None
    answering, of_texts = logits.float().cpu(), text_logits.float().cpu()

    def nearness(place: int) -> Nearness:
        if head is None:
            return Nearness(answering=tuple(answering[place].tolist()))
        return Nearness(
            answering=tuple(answering[place].tolist()),
            of_texts=tuple(of_texts[place].tolist()),
            is_taught=tuple(map(bool, head.is_learned)),
        )

    return nearness
