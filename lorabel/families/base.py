"""The base class of model families. A family is one way of computing, used both to train and to serve.

Each file in this folder holds one family, which `lorabel.discovery` finds. A family declares which inputs it
answers and which modalities it reads. It knows nothing of Label Studio, projects or HTTP.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from lorabel.contracts import BatchAdapters, Contract, Input, MediaRef, Modality
from lorabel.errors import UnreadableError
from lorabel.families.cache import FeatureCache
from lorabel.families.encoders.heads.head_answers import check_head
from lorabel.families.encoders.heads.linear_head import LinearHead
from lorabel.families.int8_layers import has_int8_weights
from lorabel.families.lora_layers import linear_layers
from lorabel.feature_contracts import in_int8
from lorabel.settings import Settings

Fetch = Callable[[MediaRef], bytes]
DigestOf = Callable[[MediaRef], str | None]

LOAD_DTYPE = torch.float32
"""The `dtype` for `from_pretrained` of transformers; convert the module afterwards. transformers makes it torch's
default precision while it loads, for the whole process, in which other threads load other families and compute."""


def transformers_name(source: str) -> str:
    """What `from_pretrained` of transformers takes for `hf-hub:owner/name` or `local-dir:folder`."""
    return source.removeprefix("hf-hub:").removeprefix("local-dir:")


class NoBatchAdapters(BatchAdapters):
    """Leaves the model unchanged: every row is computed with the adapter that PEFT has active, or with none."""

    def use(self, adapters: Sequence[str | None]) -> AbstractContextManager[None]:
        """Return a context that does nothing."""
        return nullcontext()

    def effective_adapter(self, adapter: str | None, layers: Collection[str]) -> str | None:
        """Return the adapter as it is, whatever the layers."""
        return adapter


NO_BATCH_ADAPTERS = NoBatchAdapters()


class Family(ABC):
    """A loaded base model.

    A `PreparedInput` is whatever `prepare` returns; each family defines its own class. `adapter` is the name of an
    adapter; None is the base model.

    Thread safety: `prepare`, `recall` and `answer` may run in any thread. All other methods run in one thread,
    which owns the device.

    Attributes:
        name: names the family in settings (`MODEL_<NAME>`, `FAMILIES`), metrics and logs.
        inputs: the classes of inputs that the family answers.
        modalities: the modalities of contents that it can read.
        default_source: the base model if the settings name none.
        has_lora: whether adapters can be trained. False if `module` has no layers, since the family does not
            compute with torch; then only heads learn.
        part_types: the families that answer one after the other in place of a base model of its own; empty for
            most.
        adapters_rival_heads: whether an adapter that is better than the fitted head answers in its place.
        learning_rate_factor: by which LEARNING_RATE is multiplied.
        most_train_batch: most examples in a step of training; None for what the settings say.
        most_tested: most held-out tasks in an evaluation, where each takes long; None for what the settings say.
        has_int8: whether `int8_layers` names any layers, so that PRECISION=int8 can be served.
        divides_rows: whether the cores of a CPU compute rows of their own, see `lorabel.families.core_threads`.
            Texts among them are not divided: what is padded goes by the longest of a batch.
        source: the base model that was loaded.
        module: the base model; adapters go on its linear layers.
        device: where `module` is.
        dtype: the precision of the weights of `module`.
    """

    name: ClassVar[str]
    inputs: ClassVar[tuple[type[Input], ...]]
    modalities: ClassVar[frozenset[Modality]]
    default_source: ClassVar[str]
    has_lora: ClassVar[bool] = True
    part_types: ClassVar[tuple[type["Family"], ...]] = ()
    adapters_rival_heads: ClassVar[bool] = False
    learning_rate_factor: ClassVar[float] = 1.0
    most_train_batch: ClassVar[int | None] = None
    most_tested: ClassVar[int | None] = None
    divides_rows: ClassVar[bool] = False
    has_int8: ClassVar[bool] = False

    source: str
    module: nn.Module
    device: torch.device
    dtype: torch.dtype

    @classmethod
    @abstractmethod
    def load(cls, source: str, device: torch.device, dtype: torch.dtype, settings: Settings) -> Self:
        """Load a base model, frozen and in eval mode.

        Args:
            source: a hub id or a local folder; which forms are possible is up to the family.

        Raises:
            SettingsError: the model cannot be found or read. The message names the setting.
        """

    @classmethod
    def is_local(cls, source: str) -> bool:
        """Whether `load` needs no model hub for a source."""
        return source.startswith("local-dir:")

    @classmethod
    def hub_id(cls, source: str) -> str:
        """The repository on the model hub, as `owner/name`, whose files `load` needs for a source.

        Raises:
            SettingsError: the source names no repository.
        """
        return source.removeprefix("hf-hub:")

    @classmethod
    def of(cls, parts: Sequence["Family"]) -> Self:
        """Return the family of `part_types` that are loaded already.

        Args:
            parts: one for each of `part_types`, in their order.
        """
        raise NotImplementedError(f"{cls.name} has a base model of its own")

    @classmethod
    @abstractmethod
    def tiny(cls, folder: Path) -> str:
        """Write a tiny model with random weights for tests. Returns its source for `load`."""

    @property
    def parts(self) -> tuple["Family", ...]:
        """The loaded families of `part_types`. The layers of each are in `module` under the part's name."""
        return ()

    @property
    def space(self) -> str:
        """The name of the space of the base model's features; see `Features`."""
        space = f"{self.name} {self.source}"
        return in_int8(space) if self.has_int8 and self._has_int8_weights else space

    @property
    def head_dim(self) -> int | None:
        """The number of features that a fitted head multiplies; None if the family has no fitted heads."""
        return None

    @abstractmethod
    def prepare(self, question: Any, fetch: Fetch) -> Any:
        """Read and decode the contents of a question. Returns a `PreparedInput` on the CPU.

        Args:
            question: an instance of one of `inputs`.
            fetch: returns the bytes of a file.

        Raises:
            UnreadableError: a content cannot be fetched or decoded.
        """

    def precompute(
        self, prepared_inputs: Sequence[Any], trained: Collection[str], generator: torch.Generator | None
    ) -> Sequence[Any]:
        """Compute everything that LoRA on the trained layers cannot change, so that a run pays for it only once.

        Args:
            trained: names of the layers that the run trains.
            generator: on the CPU; for random augmentation. Several augmented views may be kept of each input. None
                for inputs that are never augmented, but only answered.

        Returns:
            `PreparedInput`s that hold the results, in the same order.
        """
        return prepared_inputs

    def augment(
        self, prepared_inputs: Sequence[Any], targets: Sequence[Any], generator: torch.Generator
    ) -> tuple[Sequence[Any], Sequence[Any]]:
        """Change the inputs a little at random (data augmentation), and the targets that move with them.

        By default nothing is changed.

        Args:
            targets: one for each input.
            generator: on the CPU.

        Returns:
            The inputs and their targets, in the same order.
        """
        return prepared_inputs, targets

    def recall(
        self, question: Any, digest_of: DigestOf, adapter: str | None, bank: BatchAdapters, cache: FeatureCache
    ) -> Any | None:
        """Build a `PreparedInput` from the cache instead of from files.

        Args:
            digest_of: returns the `lorabel.media.fetching.digest` of a file, or None if it is not known.

        Returns:
            what `prepare` would return, or the features that were computed from it; None if the cache lacks it.
        """
        return None

    def with_head(
        self,
        prepared_input: Any,
        head: LinearHead | None,
        adapter: str | None = None,
        bank: BatchAdapters = NO_BATCH_ADAPTERS,
    ) -> Any:
        """Return the input as one that `answer` and `predict` answer with a fitted head.

        Args:
            prepared_input: from `prepare` or `recall`.
            head: None changes nothing.
            adapter: the adapter that the input will be answered with.

        Returns:
            None if the input is from `recall` and lacks what the head needs.

        Raises:
            UnreadableError: the family has no fitted heads, or the head does not fit the question, the base model
                or the adapter.
        """
        if head is None:
            return prepared_input
        if self.head_dim is None:
            raise UnreadableError(f"{self.name} has no fitted heads", is_permanent=False)
        check_head(head, prepared_input.question, self.space, self.head_dim)
        return replace(prepared_input, fitted_head=head)

    def for_features(self, prepared_input: Any, target: object) -> Any:
        """Return the input as one that `predict` answers with `Features`, see `FeaturesInput.of`.

        Args:
            target: of the input.

        Raises:
            UnreadableError: the family has no fitted heads.
        """
        raise UnreadableError(f"{self.name} has no fitted heads", is_permanent=False)

    def answer(
        self, prepared_input: Any, adapter: str | None, bank: BatchAdapters, cache: FeatureCache
    ) -> Contract | None:
        """Compute the output from the cache alone; None if the device is needed."""
        return None

    @abstractmethod
    def predict(
        self,
        prepared_inputs: Sequence[Any],
        adapters: Sequence[str | None],
        bank: BatchAdapters,
        cache: FeatureCache,
    ) -> Sequence[Contract]:
        """Compute one output per input, in the same order. Row i is computed with `adapters[i]`.

        Args:
            bank: applies the adapters to `module`.
            cache: keeps features by content and adapter. The caller must empty it when the name of an adapter
                comes to mean other weights.
        """

    def loss(self, prepared_inputs: Sequence[Any], targets: Sequence[Any]) -> Tensor:
        """Compute the loss of each input with the adapter that PEFT has active. Only for families with `has_lora`.

        Returns:
            (batch,) float32 on `device`, with gradients.
        """
        raise NotImplementedError(f"{self.name} has no layers that could be trained")

    def while_training(self) -> AbstractContextManager[None]:
        """Return a context in which `contrastive_losses` are computed: with noise in the model, if the family has
        any. The model is as before at the end of the block. By default nothing changes.
        """
        return nullcontext()

    def contrastive_losses(self, prepared_inputs: Sequence[Any], targets: Sequence[Any]) -> Tensor:
        """Compute how well the features separate the labels, with the adapter that PEFT has active.

        Only for families with `content_layers`.

        Returns:
            (batch,) float32 on `device`, with gradients.
        """
        raise NotImplementedError(f"{self.name} has no content layers")

    def batch_rows(self, prepared_input: Any) -> int:
        """Return how many rows of a batch an input takes, at least 1: how long it keeps the device busy."""
        return 1

    @property
    def most_rows(self) -> int | None:
        """Return how many rows are computed together, whatever the size of a batch; None: all of them.

        A larger batch is no faster, and its first rows wait for the last.
        """
        return None

    def lora_layers(self) -> list[str]:
        """Return the names of all layers that an adapter may be on: all linear layers of `module`."""
        return linear_layers(self.module)

    def int8_layers(self) -> list[str]:
        """Return those of `lora_layers` that PRECISION=int8 serves with weights of 8 bits."""
        return []

    @cached_property
    def _has_int8_weights(self) -> bool:
        return has_int8_weights(self.module)

    def trained_layers(self, question: Input) -> list[str]:
        """Return those of `lora_layers` that a new adapter for such questions is put on."""
        return self.lora_layers()

    def content_layers(self, question: Input) -> list[str]:
        """Return those of `lora_layers` that compute the features on which the head of such questions is fitted.

        Empty if such an adapter cannot be trained for the questions.
        """
        return []
