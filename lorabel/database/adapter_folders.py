"""The folders of trained adapters and of fitted heads. A folder appears complete or not at all.

`p12.v3/label/` holds the adapter of version 3 of project 12 for control tag `label`, in PEFT's format, and beside
it the head that answered when the version was made. `p12.h7/` holds heads that were fitted after an annotation:

    p12.v3/label/adapter_config.json
    p12.v3/label/adapter_model.safetensors
    p12.v3/label/head.safetensors
    p12.h7/label/head.safetensors
"""

import errno
import os
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote
from uuid import uuid4

from lorabel.errors import NotFoundError

NAME = re.compile(r"p[0-9]{1,10}\.v[0-9]{1,10}/[^/\x00]+")
HEAD_NAME = re.compile(r"p[0-9]{1,10}\.[vh][0-9]{1,10}/[^/\x00]+")
VERSION = re.compile(r"p([0-9]{1,10})\.v([0-9]{1,10})")
HEADS = re.compile(r"p([0-9]{1,10})\.h([0-9]{1,10})")
HEAD_FILE = "head.safetensors"
LONGEST_FILE_NAME = 255  # bytes, on the file systems of Linux
LONGEST_SHOWN_NAME = 80


class VersionFolder(NamedTuple):
    """The folder of a version `p<project>.v<number>`, which is its name."""

    project_id: int
    number: int
    name: str


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
        if not _is_name(NAME, name):
            shown = name[:LONGEST_SHOWN_NAME]
            raise NotFoundError(f"{shown!r} is no adapter name; expected p<project>.v<n>/<control tag>")
        folder = self.root / name
        if not (folder / "adapter_config.json").is_file():
            raise NotFoundError(f"adapter {name!r} is not in {self.root}; was the folder moved or deleted?")
        return folder

    def read_head(self, name: str) -> bytes:
        """The file of a fitted head.

        Args:
            name: `p<project>.h<n>/<control tag>`, or `p<project>.v<n>/<control tag>` for a version's.

        Raises:
            NotFoundError: there is no such head, or the name is not of this form.
        """
        if not _is_name(HEAD_NAME, name):
            shown = name[:LONGEST_SHOWN_NAME]
            raise NotFoundError(f"{shown!r} is no name of a head; expected p<project>.h<n>/<control tag>")
        try:
            return (self.root / name / HEAD_FILE).read_bytes()
        except OSError as error:
            raise NotFoundError(f"head {name!r} cannot be read from {self.root}: {error.strerror}") from error

    def write(self, version: str, write_into: Callable[[Path], None]) -> None:
        """Write a version's folder: fill a temporary folder, flush it to the disk, and rename it.

        Nobody sees a half-written folder. A folder is never replaced, because the model server keeps loaded
        weights under the adapter's name.

        Args:
            version: name of the version, `p<project>.v<n>`, or of heads, `p<project>.h<n>`.
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
            _rename(temporary, final)
            _flush(self.root)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def last_number(self, project_id: int) -> int:
        """The largest n of a project's folders `p<project>.v<n>`; 0 if it has none."""
        versions = (VERSION.fullmatch(folder.name) for folder in self.root.glob(f"p{project_id}.v*"))
        return max((int(version[2]) for version in versions if version), default=0)

    def head_numbers(self, project_id: int) -> list[int]:
        """The numbers n of a project's folders of heads `p<project>.h<n>`, sorted."""
        matches = (HEADS.fullmatch(folder.name) for folder in self.root.glob(f"p{project_id}.h*"))
        return sorted(int(match[2]) for match in matches if match)

    def prune_heads(self, project_id: int, kept: int, kept_s: float, except_number: int) -> None:
        """Remove old folders of a project's heads. Several processes may do this at once.

        Args:
            kept: the newest folders, of this number, stay, and so do younger ones than `kept_s` seconds.
            except_number: of the folder whose heads answer; it stays.
        """
        cutoff = datetime.now(UTC) - timedelta(seconds=kept_s)
        for number in self.head_numbers(project_id)[:-kept]:
            name = heads_folder(project_id, number)
            with suppress(FileNotFoundError):
                if number != except_number and self.written_at(name) < cutoff:
                    self.remove(name)

    def list_versions(self) -> list[VersionFolder]:
        """The folders of versions, also those that no row names, by project and number."""
        matches = (VERSION.fullmatch(folder.name) for folder in self.root.glob("p*.v*"))
        return sorted(VersionFolder(int(match[1]), int(match[2]), match[0]) for match in matches if match)

    def written_at(self, version: str) -> datetime:
        """When the version's folder was written or changed."""
        return datetime.fromtimestamp((self.root / version).stat().st_mtime, UTC)

    def remove(self, version: str) -> None:
        """Remove the version's folder. Nobody sees a part of it; it need not exist."""
        temporary = self.root / f".{version}.{uuid4().hex}"
        with suppress(FileNotFoundError):
            (self.root / version).rename(temporary)
        shutil.rmtree(temporary, ignore_errors=True)

    def empty(self, version: str) -> bool:
        """Remove what is in the version's folder, and keep the folder, so that its number is not used again.

        Returns:
            Whether there was anything in it.
        """
        contents = list((self.root / version).iterdir())
        for path in contents:
            shutil.rmtree(path, ignore_errors=True)
        return bool(contents)

    def remove_old_temporary(self, before: datetime) -> list[str]:
        """Remove the temporary folders that were written before a time. Returns their names."""
        old = [folder.name for folder in self.root.glob(".p*.[vh]*.*") if self.written_at(folder.name) < before]
        for name in old:
            shutil.rmtree(self.root / name, ignore_errors=True)
        return old

    def remove_leftovers(self, version_prefix: str) -> None:
        """Delete the temporary folders that killed runs left. Only safe while no such run is writing.

        Args:
            version_prefix: e.g. `p12.v` for all versions of project 12.
        """
        for folder in self.root.glob(f".{version_prefix}*"):
            shutil.rmtree(folder, ignore_errors=True)


def tag_folder(from_name: str) -> str:
    """A single folder's name for any name of a control tag: `..` must not lead out of the version's folder."""
    return quote(from_name, safe="").replace(".", "%2E")


def heads_folder(project_id: int, number: int) -> str:
    """The name of a folder of heads, e.g. `p12.h7`."""
    return f"p{project_id}.h{number}"


def _is_name(pattern: re.Pattern[str], name: str) -> bool:
    """Whether a text has the form of an adapter's name, and a file system can have a folder of that name."""
    if not pattern.fullmatch(name):
        return False
    tag = name.partition("/")[2]
    return tag not in (".", "..") and len(tag.encode(errors="replace")) <= LONGEST_FILE_NAME


def _rename(temporary: Path, final: Path) -> None:
    """Raises FileExistsError: somebody else has written the folder meanwhile."""
    try:
        temporary.rename(final)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise FileExistsError(f"{final} exists; a version's folder is never replaced") from error
        raise


def _flush(path: Path) -> None:
    """Have the operating system write a file or folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
