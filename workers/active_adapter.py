"""The adapter that PEFT has active, as what families compute batches with."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from lorabel.contracts import BatchAdapters

ACTIVE = "active"


class ActiveAdapter(BatchAdapters):
    """The adapter that PEFT had active in the module when this was made, or none, under the name ACTIVE."""

    def __init__(self, module: nn.Module) -> None:
        self._active = {
            name: layer
            for name, layer in module.named_modules()
            if isinstance(layer, BaseTunerLayer)
            and not layer.disable_adapters
            and not set(layer.active_adapters).isdisjoint(layer._get_available_adapters())
        }

    @contextmanager
    def use(self, adapters: Sequence[str | None]) -> Iterator[None]:
        """A context in which all rows are computed with the adapter, or all without it.

        Raises:
            ValueError: some rows have the adapter and others do not.
        """
        if len(set(adapters)) > 1:
            raise ValueError(f"PEFT computes all rows of a batch with the same adapter, not {adapters!r}")
        if ACTIVE in adapters:
            yield
            return
        try:
            for layer in self._active.values():
                layer.enable_adapters(False)
            yield
        finally:
            for layer in self._active.values():
                layer.enable_adapters(True)

    def effective_adapter(self, adapter: str | None, layers: Collection[str]) -> str | None:
        """Return ACTIVE if the adapter is asked for and changes one of these layers; else None."""
        return None if adapter is None or self._active.keys().isdisjoint(layers) else ACTIVE
