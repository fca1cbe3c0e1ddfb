"""Folders that only their owner may read, for data that other users of the machine must not see."""

import os
import stat
from pathlib import Path

from lorabel.errors import SettingsError

PRIVATE = 0o700
OF_OTHERS = 0o077


def make_private(folder: Path) -> None:
    """Create DATA_DIR with mode 0700 if it is missing; take other users' rights away if it belongs to this user.

    The mode is left as it is where others need it: on a folder of another user, on a folder with the sticky bit,
    which is shared on purpose (such as /tmp), and on the root of the file system.

    Raises:
        SettingsError: DATA_DIR is not a folder, or cannot be created.
    """
    try:
        folder.mkdir(mode=PRIVATE, parents=True, exist_ok=True)
        status = folder.stat()
        is_shared = bool(status.st_mode & stat.S_ISVTX) or folder.absolute() == Path(folder.absolute().anchor)
        if status.st_uid == os.geteuid() and status.st_mode & OF_OTHERS and not is_shared:
            folder.chmod(stat.S_IMODE(status.st_mode) & ~OF_OTHERS)
    except OSError as error:
        reason = error.strerror or str(error)
        raise SettingsError(f"DATA_DIR {folder} cannot be used: {reason}; set it to a folder") from error


def is_private(folder: Path) -> bool:
    """Whether this is a folder (not a link to a folder) of this user, in which other users have no rights."""
    try:
        status = folder.lstat()
    except OSError:
        return False
    is_ours = status.st_uid == os.geteuid() and not status.st_mode & OF_OTHERS
    return is_ours and stat.S_ISDIR(status.st_mode)
