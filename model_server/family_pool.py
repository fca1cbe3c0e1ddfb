"""The loaded families: some from the start, each of the others when it is first asked for."""

import logging
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass

from lorabel.contracts import Input
from lorabel.errors import UnreadableError
from lorabel.families.base import Family
from lorabel.families.cache import FeatureCache
from lorabel.families.loading import family_for, family_types
from model_server.adapters import AdapterBank

log = logging.getLogger(__name__)

RETRY_AFTER_S = 60.0


@dataclass(frozen=True)
class LoadedFamily:
    """A loaded family with its adapters and what it has computed before."""

    family: Family
    bank: AdapterBank
    cache: FeatureCache


class FamilyPool:
    """Thread-safe. A family is loaded once, in a thread of its own; those who ask meanwhile wait for it.

    Args:
        load: makes a family's loaded_family; takes seconds, or minutes where a hub is asked for the first time.
        loaded: those that are there from the start.
    """

    def __init__(self, load: Callable[[type[Family]], LoadedFamily], loaded: Iterable[LoadedFamily] = ()) -> None:
        self._load = load
        self._lock = threading.Lock()
        self._found: dict[str, Future[LoadedFamily]] = {}
        self._failed_at: dict[str, float] = {}
        for loaded_family in loaded:
            self._found[loaded_family.family.name] = Future()
            self._found[loaded_family.family.name].set_result(loaded_family)

    @property
    def loaded(self) -> list[LoadedFamily]:
        with self._lock:
            return [found.result() for found in self._found.values() if found.done() and not found.exception()]

    def of(self, question: Input) -> "Future[LoadedFamily]":
        """Its exception says why the family cannot be loaded; after a while it is tried again.

        Raises:
            SettingsError: no family answers such a question.
            UnreadableError: its family is not loaded, and the question is not worth it.
        """
        kind = family_for(question)
        with self._lock:
            found = self._found.get(kind.name)
            if found is not None and not self._is_to_be_tried_again(kind.name):
                return found
            if not question.is_worth_loading:
                raise UnreadableError(f"{kind.name} is not loaded", is_permanent=False)
            self._failed_at.pop(kind.name, None)
            found = self._found[kind.name] = Future()
        threading.Thread(target=self._run, args=(kind, found), name=f"load-{kind.name}", daemon=True).start()
        return found

    def _is_to_be_tried_again(self, name: str) -> bool:
        return time.monotonic() - self._failed_at.get(name, float("inf")) > RETRY_AFTER_S

    def _run(self, kind: type[Family], found: "Future[LoadedFamily]") -> None:
        try:
            loaded_family = self._load(kind)
        except Exception as error:
            log.exception("family %s cannot be loaded", kind.name)
            with self._lock:
                self._failed_at[kind.name] = time.monotonic()
            found.set_exception(error)
        else:
            found.set_result(loaded_family)


def input_type(kind: str) -> type[Input]:
    """The class of questions of that name.

    Raises:
        UnreadableError: no family here answers such questions.
    """
    known = {one.kind: one for family in family_types() for one in family.inputs}
    if kind not in known:
        served = ", ".join(sorted(known))
        raise UnreadableError(f"no family here answers {kind!r}; answered: {served}", is_permanent=False)
    return known[kind]
