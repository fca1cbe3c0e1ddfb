"""Real PostgreSQL and Redis servers on free ports, with their data in temporary folders.

`python -m tests.servers -- pytest tests/backend` runs a command with DATABASE_URL_FOR_TESTS and
REDIS_URL_FOR_TESTS set to such servers, and ends them after it; where they are not installed, without them.
"""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg
from redis import Redis
from redis.exceptions import RedisError

from tests import skipped

START_TIMEOUT_S = 60.0
POLL_S = 0.1
DEBIAN_FOLDERS = "/usr/lib/postgresql"
LOOPBACK = "127.0.0.1"


class MissingServerError(Exception):
    """A server's program is not installed; the message says what to install."""


@dataclass(frozen=True)
class PostgresServer:
    """`trust` authentication on 127.0.0.1; the superuser is `lorabel`.

    Args:
        process: can be stopped, and started again with the same data.
    """

    port: int
    process: "ServerProcess"

    def url(self, database: str = "postgres", host: str = LOOPBACK) -> str:
        return f"postgresql://lorabel@{host}:{self.port}/{database}"


@dataclass(frozen=True)
class RedisServer:
    port: int

    def url(self, database: int = 0, host: str = LOOPBACK) -> str:
        return f"redis://{host}:{self.port}/{database}"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def postgres_server(
    addresses: Sequence[str] = (),
    network: str | None = None,
    tls: Path | None = None,
    *,
    is_durable: bool = False,
) -> Iterator[PostgresServer]:
    """A fresh cluster. PostgreSQL refuses to run as root, so root runs it as somebody else.

    Args:
        addresses: to listen on, beside 127.0.0.1.
        network: whose machines are let in, beside this one.
        tls: PEM file with a certificate and its key, with which it speaks TLS where clients want to.
        is_durable: commits wait for the disk, as by default. Nobody pulls this machine's plug, and waiting for the
            disk would double the tests' time.

    Raises:
        MissingServerError: it is not installed.
    """
    initdb, postgres = _postgres_program("initdb"), _postgres_program("postgres")
    port = free_port()
    with TemporaryDirectory(prefix="lorabel-pg-") as folder, _as_somebody(Path(folder)) as prefix:
        data = Path(folder) / "data"
        make = ["--auth=trust", "--username=lorabel", "--encoding=UTF8", "--no-locale", "--no-sync"]
        made = subprocess.run([*prefix, initdb, *make, f"--pgdata={data}"], capture_output=True, cwd=folder)
        if made.returncode:
            raise RuntimeError(f"initdb failed: {made.stderr.decode(errors='replace')}")
        if network is not None:
            with (data / "pg_hba.conf").open("a") as rules:
                rules.write(f"host all all {network} trust\n")
        listen = ",".join([LOOPBACK, *addresses])
        options = ["-D", str(data), "-p", str(port), "-k", folder, "-c", f"listen_addresses={listen}"]
        if not is_durable:
            options += ["-c", "fsync=off", "-c", "synchronous_commit=off"]
        if tls is not None:
            pem = Path(folder) / "server.pem"
            pem.write_bytes(tls.read_bytes())
            pem.chmod(0o600)
            os.chown(pem, Path(folder).stat().st_uid, Path(folder).stat().st_gid)
            options += ["-c", "ssl=on", "-c", f"ssl_cert_file={pem}", "-c", f"ssl_key_file={pem}"]
        # SIGINT ends PostgreSQL without waiting for its clients.
        process = ServerProcess([*prefix, postgres, *options], Path(folder), signal.SIGINT, lambda: _answers(port))
        with process.running():
            yield PostgresServer(port, process)


@contextmanager
def redis_server(
    command: Sequence[str] = ("redis-server",), addresses: Sequence[str] = (), password: str | None = None
) -> Iterator[RedisServer]:
    """An empty server, started by `command` with the port and folder put after it.

    Args:
        addresses: to listen on, beside 127.0.0.1, without a password.
        password: which `command` requires.

    Raises:
        MissingServerError: it is not installed.
    """
    program = shutil.which(command[0])
    if program is None:
        raise MissingServerError("redis-server is not on the PATH: apt-get install redis-server")
    server = RedisServer(free_port())
    with TemporaryDirectory(prefix="lorabel-redis-") as folder:
        options = ["--port", str(server.port), "--bind", LOOPBACK, *addresses, "--dir", folder]
        options += ["--protected-mode", "no"] if addresses else []
        argv = [program, *command[1:], *options]
        with ServerProcess(argv, Path(folder), signal.SIGTERM, lambda: _pings(server, password)).running():
            yield server


def _postgres_program(name: str) -> str:
    """From the newest of Debian's versions, else from the PATH (where Debian keeps no `postgres`)."""
    versions = sorted(Path(DEBIAN_FOLDERS).glob(f"*/bin/{name}"), key=lambda path: int(path.parts[-3]))
    program = str(versions[-1]) if versions else shutil.which(name)
    if program is None:
        raise MissingServerError(f"PostgreSQL's {name} is not installed: apt-get install postgresql")
    return program


@contextmanager
def _as_somebody(folder: Path) -> Iterator[list[str]]:
    """What to put before a command so that it does not run as root; the folder is given to that user."""
    if os.geteuid() != 0:
        yield []
        return
    names = {entry.pw_name for entry in pwd.getpwall()}
    user = "postgres" if "postgres" in names else "nobody"
    shutil.chown(folder, user)
    yield ["setpriv", f"--reuid={user}", f"--regid={pwd.getpwnam(user).pw_gid}", "--clear-groups", "--"]


class ServerProcess:
    """Writes its output to `server.log` in a folder.

    Args:
        end: the signal that ends it.
        is_up: whether it answers.
    """

    def __init__(self, argv: Sequence[str], folder: Path, end: int, is_up: Callable[[], bool]) -> None:
        self._argv, self._folder, self._end, self._is_up = argv, folder, end, is_up
        self._process: subprocess.Popen[bytes] | None = None

    @contextmanager
    def running(self) -> Iterator[None]:
        try:
            self.start()
            yield
        finally:
            self.stop()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        log = self._folder / "server.log"
        with log.open("ab") as output:
            self._process = process = subprocess.Popen(
                self._argv,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._is_up():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self._argv[0]} did not come up:\n{log.read_text(errors='replace')[-3000:]}")
            time.sleep(POLL_S)

    def stop(self) -> None:
        """End it, and wait until it has ended."""
        if self._process is None:
            return
        self._process.send_signal(self._end)
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None


def _answers(port: int) -> bool:
    try:
        psycopg.connect(f"postgresql://lorabel@{LOOPBACK}:{port}/postgres", connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True


def _pings(server: RedisServer, password: str | None) -> bool:
    client = Redis(port=server.port, password=password)
    try:
        return bool(client.ping())
    except RedisError:
        return False
    finally:
        client.close()


def main(argv: Sequence[str]) -> int:
    try:
        with postgres_server() as postgres, redis_server() as redis:
            return _run(argv, {"DATABASE_URL_FOR_TESTS": postgres.url(), "REDIS_URL_FOR_TESTS": redis.url()})
    except MissingServerError as error:
        # As for tests that need a browser: a developer may lack it, CI may not.
        print(f"no test against real servers: {error}", file=sys.stderr)
        if os.environ.get("CI") == "true":
            return 1
        skipped.append([f"all tests against real servers: {error}"])
    return _run(argv, {})


def _run(argv: Sequence[str], variables: Mapping[str, str]) -> int:
    try:
        return subprocess.run(argv, env={**os.environ, **variables}).returncode
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    if len(sys.argv) < 3 or sys.argv[1] != "--":
        sys.exit("usage: python -m tests.servers -- COMMAND [ARGUMENT ...]")
    sys.exit(main(sys.argv[2:]))
