"""What an encoder prepares of a question: its contents as decoded data, as features, or both.

Also the digest under which a content's data and features are cached, and how inputs are divided into batches.
"""

from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lorabel.contracts import Content, EmbedInput, Input, LabelsInput, Modality
from lorabel.families.base import DigestOf
from lorabel.families.encoders.heads.base import Head
from lorabel.families.encoders.heads.by_question import HEADS
from lorabel.families.encoders.heads.linear_head import LinearHead
from lorabel.feature_contracts import FeaturesInput
from lorabel.media.fetching import digest


@dataclass(frozen=True)
class PreparedContent:
    """A content that has been read or encoded.

    Args:
        data: a tensor on the CPU as the family decodes it, or a text. None if `features` are enough.
        features: (views, dim) float32 of length 1. The first view is the content itself, the others are augmented.
            None if they must still be computed.
        digest: see `content_digest`; None if it is not known.
        frozen: (dim,) float32 of length 1: the base model's features, where `features` are an adapter's and the
            answer needs both. None for everything else, or if they must still be computed.
        is_part: whether `data` is part of a file that is decoded as a whole, so that it is not kept by itself.
    """

    modality: Modality
    data: Any = None
    features: Tensor | None = None
    digest: str | None = None
    frozen: Tensor | None = None
    is_part: bool = False


@dataclass(frozen=True)
class PreparedInput:
    """A question with its contents prepared, in the order of `question.contents`.

    Args:
        question: an instance of one of the encoder's `inputs`.
        fitted_head: computes the answer in place of the base model alone.
    """

    question: Input
    contents: tuple[PreparedContent, ...]
    fitted_head: LinearHead | None = None

    @property
    def head(self) -> Head:
        """The head that answers the question. There is none for `EmbedInput` (KeyError)."""
        return HEADS[type(self.question)]

    @property
    def needs_parameters(self) -> bool:
        """Whether the answer depends on the parameters of `head`; otherwise only on the features."""
        if isinstance(self.question, LabelsInput):
            return True
        if isinstance(self.question, FeaturesInput):
            return bool(self.question.labels)
        return self.fitted_head is None and not isinstance(self.question, EmbedInput)

    @property
    def is_for_head(self) -> bool:
        """Whether the answer needs the base model's features beside those of an adapter."""
        return self.fitted_head is not None or isinstance(self.question, FeaturesInput)

    @property
    def has_features(self) -> bool:
        """Whether the features of all contents are there."""
        return all(content.features is not None for content in self.contents)


def content_digest(content: Content, digest_of: DigestOf) -> str | None:
    """Return a string that differs for different contents of a modality; None if the file's digest is not known.

    Args:
        digest_of: returns the `lorabel.media.fetching.digest` of a file, or None if it is not known.
    """
    read_as = content.text_format or content.series_format or content.part
    if content.media is None:
        file_digest: str | None = digest((content.text or "").encode())
    else:
        file_digest = digest_of(content.media)
    if file_digest is None or read_as is None:
        return file_digest
    return f"{file_digest} {read_as.model_dump_json()}"


def batches(values: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """Yield consecutive slices of at most `size` values."""
    return (values[start : start + size] for start in range(0, len(values), size))


def filled_up(batch: Sequence[Any], size: int, device: torch.device) -> Sequence[Any]:
    """Repeat the last value of a batch on a GPU, so that batches have few different lengths: the powers of two.

    For each new length, cuDNN chooses the kernels of every convolution anew. For the demo model on an H200 this
    takes 0.75 s, and a batch of 64 then as long as one of 1.

    Args:
        size: length of the largest batch, to which a batch is filled up at most.
    """
    if device.type != "cuda":
        return batch
    length = min(size, 1 << (len(batch) - 1).bit_length())
    return [*batch, *[batch[-1]] * (length - len(batch))]


def group_by_question(prepared_inputs: Sequence[PreparedInput]) -> list[list[int]]:
    """Return the indices of the inputs in groups. Inputs of a group ask the same about different contents."""
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for index, prepared_input in enumerate(prepared_inputs):
        # A sound in which segments are looked for has as many contents as windows.
        groups[prepared_input.question.group_key, len(prepared_input.contents)].append(index)
    return list(groups.values())
