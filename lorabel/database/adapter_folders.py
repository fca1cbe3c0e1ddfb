"""The folders of trained adapters. A version's folder appears complete or not at all.

`p12.v3/label/` holds the adapter of version 3 of project 12 for control tag `label`, in PEFT's format:

    p12.v3/label/adapter_config.json
    p12.v3/label/adapter_model.safetensors
"""

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

from lorabel.errors import NotFoundError

NAME = re.compile(r"p[0-9]{1,10}\.v[0-9]{1,10}/[^/\x00]+")
VERSION = re.compile(r"p[0-9]{1,10}\.v([0-9]{1,10})")
LONGEST_FILE_NAME = 255  # bytes, on the file systems of Linux
LONGEST_SHOWN_NAME = 80


class AdapterFolders:
    """Reads and writes adapter folders. Names come over the network, so each name is checked.

    Args:
        root: DATA_DIR/adapters; it may be missing.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, name: str) -> Path:
        """The folder of an adapter.

        Args:
            name: `p<project>.v<n>/<control tag>`.

        Raises:
            NotFoundError: there is no such adapter, or the name is not of this form.
        """
        if not _is_name(name):
            shown = name[:LONGEST_SHOWN_NAME]
            raise NotFoundError(f"{shown!r} is no adapter name; expected p<project>.v<n>/<control tag>")
        folder = self.root / name
        if not (folder / "adapter_config.json").is_file():
            raise NotFoundError(f"adapter {name!r} is not in {self.root}; was the folder moved or deleted?")
        return folder

    def write(self, version: str, write_into: Callable[[Path], None]) -> None:
        """Write a version's folder: fill a temporary folder, flush it to the disk, and rename it.

        Nobody sees a half-written folder. A folder is never replaced, because the model server keeps loaded
        weights under the adapter's name.

        Args:
            version: name of the version, `p<project>.v<n>`.
            write_into: writes the adapters into the folder that it is called with.

        Raises:
            FileExistsError: the version has a folder already.
        """
        final = self.root / version
        if final.exists():
            raise FileExistsError(f"{final} exists; a version's folder is never replaced")
        temporary = self.root / f".{version}.{uuid4().hex}"
        temporary.mkdir(parents=True)
        try:
            write_into(temporary)
            for path in sorted(temporary.rglob("*"), reverse=True):
                _flush(path)
            _flush(temporary)
            temporary.rename(final)
            _flush(self.root)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def last_number(self, project_id: int) -> int:
        """The largest n of a project's folders `p<project>.v<n>`; 0 if it has none."""
        versions = (VERSION.fullmatch(folder.name) for folder in self.root.glob(f"p{project_id}.v*"))
        return max((int(version[1]) for version in versions if version), default=0)

    def remove_leftovers(self, version_prefix: str) -> None:
        """Delete the temporary folders that killed runs left. Only safe while no such run is writing.

        Args:
            version_prefix: e.g. `p12.` for all versions of project 12.
        """
        for folder in self.root.glob(f".{version_prefix}*"):
            shutil.rmtree(folder, ignore_errors=True)


def _is_name(name: str) -> bool:
    """Whether a text has the form of an adapter's name, and a file system can have a folder of that name."""
    if not NAME.fullmatch(name):
        return False
    tag = name.partition("/")[2]
    return tag not in (".", "..") and len(tag.encode(errors="replace")) <= LONGEST_FILE_NAME


def _flush(path: Path) -> None:
    """Have the operating system write a file or folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
