"""Runs the real Label Studio: installed once per machine, with fresh data for every server."""

import fcntl
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx

from lorabel.demo.account import Account, sign_in, with_token
from lorabel.demo.installation import LABEL_STUDIO_VERSION, Installation
from lorabel.errors import LabelStudioError
from lorabel.label_studio.client import LabelStudio
from tests.servers import free_port

EMAIL = "annotator@example.com"
PASSWORD = "only-in-tests-1"
START_TIMEOUT_S = 120.0
CACHE = Path.home() / ".cache" / "lorabel-tests" / f"label-studio-{LABEL_STUDIO_VERSION}"


def install() -> Installation:
    """Install Label Studio and make an empty database with one user, unless an earlier call has done so."""
    installation = Installation.under(CACHE)
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # pytest may run several processes
        installation.install(lambda _: None)
        installation.create_database(EMAIL, PASSWORD, lambda _: None)
    return installation


@dataclass(frozen=True)
class Server:
    url: str
    port: int
    process: subprocess.Popen[bytes]
    account: Account
    data: Path

    @property
    def token(self) -> str:
        assert self.account.token is not None
        return self.account.token

    def client(self) -> LabelStudio:
        return LabelStudio(self.url, self.token, timeout_s=60.0)

    def allow_legacy_tokens(self) -> str:
        """Allow legacy tokens and return the user's."""
        self._set_legacy_tokens(True)
        with self.client() as client:
            return str(client.call("GET", "/api/current-user/token")["token"])

    def forbid_legacy_tokens(self) -> None:
        self._set_legacy_tokens(False)

    def _set_legacy_tokens(self, is_allowed: bool) -> None:
        jwt_settings = {"api_tokens_enabled": True, "legacy_api_tokens_enabled": is_allowed}
        with self.client() as client:
            client.call("POST", "/api/jwt/settings", json=jwt_settings)


def start(data: Path, variables: Mapping[str, str], port: int | None = None) -> Server:
    """Start a server and wait until it answers.

    Args:
        data: folder of the server's data. If it does not exist it is made, with one user.
        variables: environment variables of the server.
        port: a free one by default.
    """
    installation = install()
    if not data.exists():
        shutil.copytree(installation.data, data)
    port = port or free_port()
    server_installation = Installation(installation.folder, data)
    with (data / "server.log").open("ab") as log:
        process = subprocess.Popen(
            server_installation.command(port, variables),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_until_up(url, process, data / "server.log")
        return Server(url, port, process, _account(url, data), data)
    except BaseException:
        kill_group(process)
        raise


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """End a process group by its leader: SIGTERM first, so that it can end its children, SIGKILL after 20 s."""
    if process.poll() is not None:
        return
    try:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=10)
    except ProcessLookupError:
        process.wait(timeout=10)


def log_in(url: str) -> httpx.Client:
    browser = httpx.Client(base_url=url, headers={"Referer": url}, trust_env=False, timeout=30.0)
    sign_in(browser, EMAIL, PASSWORD)
    return browser


def _account(url: str, data: Path) -> Account:
    token_file = data / "token"
    if token_file.exists():
        return Account(EMAIL, PASSWORD, token_file.read_text())
    account = with_token(Account(EMAIL, PASSWORD), url)
    token_file.write_text(account.token or "")
    return account


def _wait_until_up(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    with LabelStudio(url, None, timeout_s=5.0) as client:
        while time.monotonic() < deadline and process.poll() is None:
            try:
                client.server()
                return
            except LabelStudioError:
                time.sleep(0.3)
    raise RuntimeError(f"Label Studio did not come up at {url}:\n{log.read_text(errors='replace')[-3000:]}")


if __name__ == "__main__":
    install()
