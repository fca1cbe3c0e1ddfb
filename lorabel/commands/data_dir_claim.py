"""A claim on DATA_DIR: one `lorabel up` or `lorabel demo` at a time uses it, and knows what the last one left.

    DATA_DIR/up.lock   locked while the claim is held; contains the id of the process that holds it
    DATA_DIR/up.json   {"token": "5f3c...", "processes": [{"name": "redis", "pid": 71, "started": "...",
                        "command": ["redis-server", "--port", "0", ...]}, ...]}

The kernel releases the lock when the process ends, in whatever way.
"""

import fcntl
import json
import logging
import os
import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from lorabel.commands.processes import SessionLeader
from lorabel.errors import SettingsError
from lorabel.private_folders import make_private

log = logging.getLogger(__name__)

LOCK, RECORD = "up.lock", "up.json"


class DataDirClaim:
    """The claim of this process on a folder. Not thread-safe.

    Attributes:
        token: random text that marks the record as written under this claim.
    """

    def __init__(self, data_dir: Path) -> None:
        self.record = data_dir.absolute() / RECORD
        self.token = secrets.token_hex(8)
        self._data_dir = data_dir
        self._descriptor: int | None = None

    @property
    def is_held(self) -> bool:
        return self._descriptor is not None

    def take(self) -> None:
        """Create the folder if it is missing, make it private, and claim it.

        Raises:
            SettingsError: the folder cannot be used, or another process holds it; the message has its id.
        """
        make_private(self._data_dir)
        path = self._data_dir.absolute() / LOCK
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 32).decode(errors="replace").strip()
            os.close(descriptor)
            raise SettingsError(
                f"DATA_DIR {self._data_dir} is in use by process {holder or 'unknown'}, another `lorabel up` or "
                f"`lorabel demo`; end that process, or set DATA_DIR to another folder"
            ) from None
        except OSError as error:
            log.warning("%s cannot be locked (%s): start `lorabel up` once only", path, error)
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._descriptor = descriptor

    def write(self, processes: Sequence[SessionLeader]) -> None:
        """Replace the record, so that it is complete at any moment."""
        text = json.dumps({"token": self.token, "processes": [asdict(process) for process in processes]}, indent=1)
        temporary = self.record.with_suffix(".new")
        temporary.write_text(text + "\n")
        temporary.replace(self.record)

    def release(self) -> None:
        """Remove the record and give the folder back. Nothing happens if the claim is not held."""
        if self._descriptor is None:
            return
        self.record.unlink(missing_ok=True)
        with suppress(OSError):
            os.truncate(self._descriptor, 0)
        os.close(self._descriptor)
        self._descriptor = None


def read_record(record: Path, token: str | None = None) -> list[SessionLeader]:
    """The processes in a record; none if there is no record, or if it is broken.

    Args:
        token: read the record only if it has this token.
    """
    try:
        content = json.loads(record.read_bytes())
        if token not in (None, content["token"]):
            return []
        return [
            SessionLeader(str(row["name"]), int(row["pid"]), str(row["started"]), tuple(map(str, row["command"])))
            for row in content["processes"]
        ]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, KeyError) as error:
        log.warning("%s cannot be read, so processes of an earlier start are not ended: %r", record, error)
        return []
