"""Adapter folders, written whole or not at all: aside, flushed to the disk, renamed.

`p12.v3/label/` holds the adapter of control tag `label` in PEFT's own format.
"""

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

from lorabel.errors import NotFoundError

NAME = re.compile(r"p\d+\.v\d+/[^/\x00]+")


class AdapterFolders:
    """Folders under DATA_DIR/adapters. Names come over the network, so they are checked."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, name: str) -> Path:
        """Raises NotFoundError if there is no such adapter, or if the name points elsewhere."""
        if not NAME.fullmatch(name) or name.rsplit("/", 1)[1] in (".", ".."):
            raise NotFoundError(f"{name!r} is no adapter name; expected p<project>.v<n>/<control tag>")
        folder = self.root / name
        if not (folder / "adapter_config.json").is_file():
            raise NotFoundError(f"adapter {name!r} is not in {self.root}; was the folder moved or deleted?")
        return folder

    def write(self, version: str, write_into: Callable[[Path], None]) -> None:
        """Let `write_into` fill a version's folder, then put it in its place in one step.

        Half-written folders are never seen, and a folder is never replaced: its name stands for its weights
        in the model server's memory.

        Raises:
            FileExistsError: the version has a folder.
        """
        final = self.root / version
        if final.exists():
            raise FileExistsError(f"{final} exists; a version's folder is never replaced")
        aside = self.root / f".{version}.{uuid4().hex}"
        aside.mkdir(parents=True)
        try:
            write_into(aside)
            for path in sorted(aside.rglob("*"), reverse=True):
                _flush(path)
            _flush(aside)
            aside.rename(final)
            _flush(self.root)
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    def last_number(self, project_id: int) -> int:
        """The largest n of the folders `p<project>.v<n>`, 0 if there is none."""
        names = [folder.name for folder in self.root.glob(f"p{project_id}.v*")]
        return max((int(name.rpartition(".v")[2]) for name in names), default=0)

    def remove_leftovers(self, version_prefix: str) -> None:
        """Delete what killed runs wrote aside, e.g. for `p12.`; only safe while no run of it is on."""
        for folder in self.root.glob(f".{version_prefix}*"):
            shutil.rmtree(folder, ignore_errors=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
