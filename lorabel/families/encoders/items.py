"""One content on its way through an encoder, and the name under which its features are remembered."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lorabel.contracts import Content, Modality
from lorabel.families.base import DigestOf
from lorabel.media.fetching import digest


@dataclass(frozen=True)
class Item:
    """One content.

    Args:
        data: as the family read it, a tensor on the CPU or a text. None where features are enough.
        features: (views, dim) float32 of length 1, the first of the content itself.
        digest: names the content, where it is known.
    """

    modality: Modality
    data: Any = None
    features: Tensor | None = None
    digest: str | None = None


def name_of(content: Content, digest_of: DigestOf) -> str | None:
    """What tells contents of a modality apart; None if the file's digest is not known."""
    if content.media is None:
        return digest((content.text or "").encode())
    name = digest_of(content.media)
    return name if name is None or content.layout is None else f"{name} {content.layout.model_dump_json()}"


def parts(values: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (values[start : start + size] for start in range(0, len(values), size))
