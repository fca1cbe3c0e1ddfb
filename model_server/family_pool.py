"""The loaded families: some are loaded at the start, each of the others when it is first needed."""

import logging
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cache

from lorabel.contracts import Input
from lorabel.errors import UnreadableError
from lorabel.families.base import Family
from lorabel.families.cache import FeatureCache
from lorabel.families.loading import family_for, family_types, part_names
from model_server.adapters import AdapterBank
from model_server.remote_adapters import RemoteAdapters

log = logging.getLogger(__name__)

RETRY_AFTER_S = 60.0


@dataclass(frozen=True)
class LoadedFamily:
    """A family on the device, with its adapters and the cache of what it has computed."""

    family: Family
    adapter_bank: AdapterBank | RemoteAdapters
    cache: FeatureCache


class FamilyPool:
    """Loads each family once, in a thread of its own. Thread-safe.

    Args:
        load: loads a family; takes seconds, or minutes if the weights must be downloaded from a hub.
        loaded: the families that are loaded at the start.
    """

    def __init__(self, load: Callable[[type[Family]], LoadedFamily], loaded: Iterable[LoadedFamily] = ()) -> None:
        self._load = load
        self._lock = threading.Lock()
        self._futures: dict[str, Future[LoadedFamily]] = {}
        self._failed_at: dict[str, float] = {}
        for loaded_family in loaded:
            self._futures[loaded_family.family.name] = Future()
            self._futures[loaded_family.family.name].set_result(loaded_family)

    @property
    def loaded(self) -> list[LoadedFamily]:
        """The families that are loaded now, without those that are being loaded or have failed."""
        with self._lock:
            return [
                future.result() for future in self._futures.values() if future.done() and not future.exception()
            ]

    def get_or_load(self, question: Input) -> "Future[LoadedFamily]":
        """Return a future of the family that answers the question; start to load the family if necessary.

        The future's exception says why the family cannot be loaded. The first call that comes more than
        RETRY_AFTER_S after a failure tries again.

        Raises:
            SettingsError: no family answers such a question.
            UnreadableError: the family is not loaded, and the question does not need its model
                (`is_model_needed`).
        """
        family_type = family_for(question)
        name = family_type.name
        with self._lock:
            future = self._futures.get(name)
            if future is not None and not self._may_retry(name):
                return future
            if not question.is_model_needed:
                raise UnreadableError(f"{name} is not loaded", is_permanent=False)
            self._failed_at.pop(name, None)
            future = self._futures[name] = Future()
        threading.Thread(target=self._run, args=(family_type, future), name=f"load-{name}", daemon=True).start()
        return future

    def preload(self, adapter: str, family: str | None = None) -> None:
        """Load an adapter for its family, if that is loaded.

        Args:
            adapter: `p<project>.v<n>/<control tag>`.
            family: name of the adapter's family, for a pipeline each of its parts; None stands for each loaded
                family that the adapter fits.

        Raises:
            NotFoundError: there is no such adapter folder.
            UnreadableError: the adapter does not fit the family, or none of the loaded ones.
        """
        errors: list[UnreadableError] = []
        names = None if family is None else part_names(family)
        loaded_families = [each for each in self.loaded if names is None or each.family.name in names]
        for loaded_family in loaded_families:
            try:
                loaded_family.adapter_bank.load(adapter)
            except UnreadableError as error:
                errors.append(error)
        if errors and (family is not None or len(errors) == len(loaded_families)):
            raise errors[0]

    def _may_retry(self, name: str) -> bool:
        """Whether the family failed to load, long enough ago."""
        return time.monotonic() - self._failed_at.get(name, float("inf")) > RETRY_AFTER_S

    def _run(self, family_type: type[Family], future: "Future[LoadedFamily]") -> None:
        try:
            loaded_family = self._load(family_type)
        except Exception as error:
            log.exception("family %s cannot be loaded", family_type.name)
            with self._lock:
                self._failed_at[family_type.name] = time.monotonic()
            future.set_exception(error)
        else:
            future.set_result(loaded_family)


def input_type(kind: str) -> type[Input]:
    """Return the contract's input class with this `kind`.

    Raises:
        UnreadableError: no installed family has inputs of this kind.
    """
    types = _input_types(family_types())
    if kind not in types:
        known_kinds = ", ".join(sorted(types))
        raise UnreadableError(
            f"no family answers inputs of kind {kind!r}; known kinds: {known_kinds}", is_permanent=False
        )
    return types[kind]


@cache
def _input_types(families: tuple[type[Family], ...]) -> dict[str, type[Input]]:
    return {contract.kind: contract for family in families for contract in family.inputs}
