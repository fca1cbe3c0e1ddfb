"""A family is one way of computing; each file here holds one. Training and serving share it.

A subclass of `Family` is found by itself. It says which questions about which modalities it answers, and knows
nothing of Label Studio, projects or HTTP.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from lorabel.contracts import BatchAdapters, Contract, Input, MediaRef, Modality
from lorabel.families.cache import FeatureCache
from lorabel.settings import Settings

log = logging.getLogger(__name__)

Fetch = Callable[[MediaRef], bytes]
DigestOf = Callable[[MediaRef], str | None]


class NoBatchAdapters(BatchAdapters):
    """Leaves the model as it is: with the adapter that PEFT has active, or none."""

    def use(self, adapters: Sequence[str | None]) -> AbstractContextManager[None]:
        return nullcontext()

    def effective_adapter(self, adapter: str | None, layers: Collection[str]) -> str | None:
        return adapter


class Family(ABC):
    """A loaded base model. `prepare`, `recall` and `answer` may run in any thread, everything else in one."""

    name: ClassVar[str]
    inputs: ClassVar[tuple[type[Input], ...]]
    modalities: ClassVar[frozenset[Modality]]
    default_source: ClassVar[str]

    source: str
    module: nn.Module
    device: torch.device
    dtype: torch.dtype

    @classmethod
    @abstractmethod
    def load(cls, source: str, device: torch.device, dtype: torch.dtype, settings: Settings) -> Self:
        """The base model, frozen and in eval mode.

        Raises:
            SettingsError: it cannot be found or read; the message names the setting.
        """

    @classmethod
    @abstractmethod
    def tiny(cls, folder: Path) -> str:
        """Write a tiny model with random weights for tests; returns its source for `load`."""

    @abstractmethod
    def prepare(self, question: Any, fetch: Fetch) -> Any:
        """One example, on the CPU. Raises UnreadableError."""

    def precompute(
        self, examples: Sequence[Any], trained: Collection[str], generator: torch.Generator
    ) -> Sequence[Any]:
        """The same examples with everything computed that LoRA on the `trained` layers cannot change.

        A run then pays once for it, not at every step. Several augmented views may be kept of each.
        """
        return examples

    @abstractmethod
    def augment(self, examples: Sequence[Any], generator: torch.Generator) -> Sequence[Any]:
        """The same examples changed a little, so that a few of them teach more."""

    def recall(
        self, question: Any, digest_of: DigestOf, adapter: str | None, adapters: BatchAdapters, cache: FeatureCache
    ) -> Any | None:
        """What `prepare` would make, or what was computed from it, from `cache`; None if it is not there.

        Args:
            digest_of: a file's `lorabel.media.fetching.digest`; None if it is not known.
        """
        return None

    def answer(
        self, example: Any, adapter: str | None, adapters: BatchAdapters, cache: FeatureCache
    ) -> Contract | None:
        """The output where `cache` holds all that it takes; None where the device is needed."""
        return None

    @abstractmethod
    def predict(
        self, examples: Sequence[Any], adapters: Sequence[str | None], bank: BatchAdapters, cache: FeatureCache
    ) -> Sequence[Contract]:
        """One output per example, row i computed with `adapters[i]`.

        Args:
            cache: keeps what is costly (features by content and adapter). It must be emptied when an adapter's
                name comes to mean other weights.
        """

    @abstractmethod
    def loss(self, examples: Sequence[Any], targets: Sequence[Any]) -> Tensor:
        """(batch,) float32: each example's own, with the adapter that PEFT has active."""

    def lora_layers(self) -> list[str]:
        """Names of the linear layers that an adapter may be on: all of them."""
        return [name for name, layer in self.module.named_modules() if isinstance(layer, nn.Linear)]

    def trained_layers(self, question: Input) -> list[str]:
        """Those of them that a new adapter goes on, which is to answer such questions."""
        return self.lora_layers()
