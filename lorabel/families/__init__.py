"""A family is one way of computing; each file here holds one. Training and serving share it.

A subclass of `Family` is found by itself. It says which questions about which modalities it answers, and knows
nothing of Label Studio, projects or HTTP.
"""

import logging
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from lorabel.contracts import Contract, Input, MediaRef, Modality, RowAdapters
from lorabel.device import choose_device, choose_precision
from lorabel.discovery import discover
from lorabel.errors import SettingsError
from lorabel.memo import Memo
from lorabel.settings import Settings

log = logging.getLogger(__name__)

Fetch = Callable[[MediaRef], bytes]
DigestOf = Callable[[MediaRef], str | None]


class NoRowAdapters(RowAdapters):
    """Leaves the model as it is: with the adapter that PEFT has active, or none."""

    def rows(self, adapters: Sequence[str | None]) -> AbstractContextManager[None]:
        return nullcontext()

    def changing(self, adapter: str | None, tower: Collection[str]) -> str | None:
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
        self, question: Any, digest_of: DigestOf, adapter: str | None, adapters: RowAdapters, memo: Memo
    ) -> Any | None:
        """What `prepare` would make, or what was computed from it, from `memo`; None if it is not there.

        Args:
            digest_of: a file's `lorabel.media.digest`; None if it is not known.
        """
        return None

    def answer(self, example: Any, adapter: str | None, adapters: RowAdapters, memo: Memo) -> Contract | None:
        """The output where `memo` holds all that it takes; None where the device is needed."""
        return None

    @abstractmethod
    def predict(
        self, examples: Sequence[Any], adapters: Sequence[str | None], bank: RowAdapters, memo: Memo
    ) -> Sequence[Contract]:
        """One output per example, row i computed with `adapters[i]`.

        Args:
            memo: keeps what is costly (features by content and adapter). It must be emptied when an adapter's
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


@cache
def family_types() -> tuple[type[Family], ...]:
    """Looked for once: entry points take tens of milliseconds, and every question asks."""
    return discover(sys.modules[__name__], Family)  # type: ignore[type-abstract]


def family_for(question: Input) -> type[Family]:
    """Of those that answer such a question, the one that is made for the fewest modalities.

    Raises:
        SettingsError: none does, or two are alike in that.
    """
    able = [
        one for one in family_types() if isinstance(question, one.inputs) and question.modalities <= one.modalities
    ]
    fewest = min((len(one.modalities) for one in able), default=0)
    chosen = [one for one in able if len(one.modalities) == fewest]
    if len(chosen) != 1:
        about = " and ".join(sorted(question.modalities)) or "nothing"
        names = ", ".join(one.name for one in chosen) or "no family"
        raise SettingsError(
            f"{names} answers questions of kind {question.kind!r} about {about}, expected exactly one"
        )
    return chosen[0]


def families_named(settings: Settings) -> list[type[Family]]:
    """Those of FAMILIES. Raises SettingsError for a name that is none."""
    known = {one.name: one for one in family_types()}
    names = [name.strip() for name in settings.families.split(",") if name.strip()]
    for name in names:
        if name not in known:
            raise SettingsError(
                f"FAMILIES names {name!r}, which is no model family; known: {', '.join(sorted(known))}"
            )
    return [known[name] for name in names]


def load_family(family: type[Family], settings: Settings, dtype: torch.dtype | None = None) -> Family:
    """Load the base model that MODEL_<FAMILY> names, on the settings' device and, by default, precision."""
    device = choose_device(settings)
    dtype = dtype or choose_precision(settings, device)
    source = settings.models.get(family.name, family.default_source)
    log.info("loading %s from %s on %s in %s", family.name, source, device, dtype)
    return family.load(source, device, dtype, settings)
