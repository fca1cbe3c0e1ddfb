"""Adapters that a server of its own computes with: GENERATOR_URL. They are handed over as folders."""

import hashlib
import threading
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from lorabel.database.adapter_folders import AdapterFolders
from lorabel.errors import UnreadableError
from lorabel.families.generation.remote import RemoteGenerator
from model_server.adapter_files import check_kind_of_server, model_name, read_config

DIGEST_CHARACTERS = 12


class RemoteAdapters:
    """The adapters of the generator on a server; see `AdapterBank`. Thread-safe.

    Args:
        seen_from_server: the folder of all adapters as the server sees it; None if it sees the same path.
    """

    def __init__(
        self, family: RemoteGenerator, adapter_folders: AdapterFolders, seen_from_server: Path | None
    ) -> None:
        self._family, self._adapter_folders = family, adapter_folders
        self._root = seen_from_server or adapter_folders.root
        self._models: dict[str, str] = {}
        self._lock = threading.Lock()

    @property
    def names(self) -> list[str]:
        """Names of the adapters that were handed over."""
        with self._lock:
            return list(self._models)

    @property
    def nbytes(self) -> int:
        """0: nothing is on this machine's device."""
        return 0

    def load(self, name: str) -> None:
        """Hand an adapter over, if the server does not have it.

        Raises:
            NotFoundError: there is no such adapter folder.
            UnreadableError: the adapter does not fit the base model, or the server refuses it.
        """
        with self._lock:
            is_known = name in self._models
        if is_known:
            return
        folder = self._adapter_folders.path(name)
        try:
            config = read_config(folder)
            digest = hashlib.sha256((folder / "adapter_model.safetensors").read_bytes()).hexdigest()
        except (OSError, ValueError) as error:
            raise UnreadableError(
                f"the files of adapter {name} are broken ({type(error).__name__}: {error}); restore its folder in "
                f"{self._adapter_folders.root}, or retrain the project",
                is_permanent=False,
            ) from error
        check_kind_of_server(config, folder)
        trained_on, source = config.get("base_model_name_or_path"), self._family.source
        if trained_on and model_name(trained_on) != model_name(source):
            raise UnreadableError(
                f"adapter {name} was trained on {trained_on!r}, not on {source!r}; set MODEL_GENERATOR back, or "
                "retrain the project",
                is_permanent=False,
            )
        model = f"{name}@{digest[:DIGEST_CHARACTERS]}"
        self._family.server.hand_over(model, str(self._root / folder.relative_to(self._adapter_folders.root)))
        with self._lock:
            self._models[name] = model

    def effective_adapter(self, adapter: str | None, layers: Collection[str]) -> str | None:
        """Return the adapter's name on the server; None for the base model. Raises as `load`."""
        if adapter is None:
            return None
        self.load(adapter)
        with self._lock:
            return self._models[adapter]

    def use(self, adapters: Sequence[str | None]) -> AbstractContextManager[None]:
        """Return a context that does nothing: each row names its adapter itself."""
        return nullcontext()
