"""`lorabel up`: starts Redis, model server, backend and workers on one machine, restarts each process that ends,
and stops them together.

DATA_DIR belongs to one supervisor at a time (`data_dir_claim.py`). If the supervisor is killed, the keeper ends
what it started (`keeper.py`). If the keeper is killed, too, the next supervisor does.
"""

import logging
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from lorabel.commands.child import MOST_FAILED_LOADS, Child, end
from lorabel.commands.data_dir_claim import DataDirClaim, read_record
from lorabel.commands.embedded_redis import EmbeddedRedis
from lorabel.commands.keeper import KEEPER, REDIS, Keeper, end_redis_last
from lorabel.commands.model_folder import check_model_folders
from lorabel.commands.part_log import MODEL_SERVER, PartLog, log_file
from lorabel.commands.processes import running_members
from lorabel.commands.readiness import answers_http, is_taking_jobs
from lorabel.database.jobs import BULK, LIGHT, TRAIN, Jobs
from lorabel.database.store import Store
from lorabel.errors import LorabelError, SettingsError
from lorabel.network import server_tls
from lorabel.redactors import make_redactor
from lorabel.settings import Settings

if TYPE_CHECKING:
    from rich.console import Console

log = logging.getLogger(__name__)

BACKEND = "backend"
WORKERS = (LIGHT, TRAIN, BULK)
UP_TIMEOUT_S = 1800.0
REDIS_TIMEOUT_S = 120.0
WATCH_EVERY_S = 0.2
REDIS_POLL_S = 0.05
# A part that was restarted more often than this before it answered does not get ready.
MOST_RESTARTS = 2
CONNECT_TIMEOUT_S = 0.3
# Threads of torch that wait for each other sleep and do not spin, because several processes share these cores.
PATIENCE = {"OMP_WAIT_POLICY": "PASSIVE"}


def run_until_stopped(settings: Settings, console: "Console") -> None:
    """Start all parts, print when they are ready, and stop them on Ctrl-C or SIGTERM. Call it in the main thread.

    Raises:
        SettingsError: DATA_DIR is in use, a port is taken, the folder of a base model is missing, or there is no
            redis-server.
        LorabelError: a part cannot start, or does not become ready.
    """
    supervisor = Supervisor(settings)
    model_server_log = PartLog(log_file(settings, MODEL_SERVER))

    def show(part: str) -> None:
        for message in model_server_log.new_messages():
            console.print(f"{MODEL_SERVER}: {message}", highlight=False, markup=False, soft_wrap=True)
        status.update(f"waiting for {part}")

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        supervisor.start()
        with console.status("starting") as status:
            supervisor.wait_until_ready(UP_TIMEOUT_S, show)
        console.print(f"backend at {address_of_backend(settings)}, logs in {settings.data_dir / 'logs'}")
        console.print("ready")
        supervisor.run_forever()
    except KeyboardInterrupt:
        console.print("stopping")
    finally:
        supervisor.stop()


@dataclass(frozen=True)
class Part:
    """What must answer before `ready` is true. `address` is for the message if it does not."""

    name: str
    address: str
    is_ready: Callable[[], bool]


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
        self._claim = DataDirClaim(settings.data_dir)
        self._keeper = Keeper(self._claim)
        self._recording = threading.Lock()
        self._failure: str | None = None

    @property
    def pids(self) -> dict[str, int]:
        """Process id by name, also of the keeper."""
        pids = {child.name: child.process.pid for child in self._children if child.process is not None}
        return pids if self._keeper.pid is None else {**pids, KEEPER: self._keeper.pid}

    def claim(self) -> None:
        """Claim DATA_DIR, and end what an earlier supervisor that was killed left running there.

        Raises:
            SettingsError: another process holds DATA_DIR, or DATA_DIR cannot be used.
            LorabelError: a process of an earlier supervisor cannot be ended.
        """
        if self._claim.is_held:
            return
        self._claim.take()
        leftovers = [leader for leader in read_record(self._claim.record) if running_members(leader)]
        for leader in leftovers:
            log.warning("ending %s (process %d), which an earlier start left running", leader.name, leader.pid)
        if unended := end_redis_last(leftovers):
            names = ", ".join(f"{leader.name} (process {leader.pid})" for leader in unended)
            raise LorabelError(f"these processes of an earlier start cannot be ended; end them: {names}")
        self._record()
        self._keeper.ensure_running()

    def start(self) -> None:
        """Claim DATA_DIR, migrate the database, start all parts, and watch them.

        Raises:
            SettingsError: DATA_DIR is in use, a port is taken, the folder of a base model is missing, a
                certificate cannot be used, REDACT names what cannot be masked here, or there is no redis-server.
            LorabelError: Redis does not start.
        """
        check_model_folders(self.settings)
        check_certificates(self.settings)
        make_redactor(self.settings).load()
        self.claim()
        check_port(self.settings.host, self.settings.port, "PORT")
        check_port(self.settings.model_server_host, self.settings.model_server_port, "MODEL_SERVER_URL")
        store = Store.open(self.settings)
        store.migrate()
        store.close()
        if self.settings.redis_url is None:
            self.start_redis()
        python = sys.executable
        self.add(MODEL_SERVER, [python, "-m", "model_server"])
        self.add(BACKEND, [python, "-m", "gunicorn", "--config", str(gunicorn_config())])
        for queue_name in WORKERS:
            self.add(worker_name(queue_name), [python, "-m", "workers", queue_name])
        self._watcher.start()

    def add(
        self,
        name: str,
        argv: Sequence[str],
        env: Mapping[str, str] | None = None,
        before_restart: Callable[[int], None] | None = None,
    ) -> None:
        """Start one more process; its output goes to `DATA_DIR/logs/<name>.log`.

        Args:
            before_restart: called with the exit status of the process that ended, before it is started again.
        """
        self.claim()
        path = log_file(self.settings, name)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        child = Child(name, argv, {**PATIENCE, **self._env, **(env or {})}, path, before_restart)
        child.start()
        self._children.append(child)
        self._record()

    def wait_until_ready(self, timeout_s: float, on_wait: Callable[[str], None] = lambda part: None) -> None:
        """Wait until every part answers: backend and model server by HTTP, Redis, and each worker through Redis.

        Args:
            on_wait: called every 0.2 s with the name of the part that is not ready yet.

        Raises:
            LorabelError: a part cannot be loaded, is not ready in time, or was restarted three times; the message
                has the reason or the end of its log.
        """
        deadline = time.monotonic() + timeout_s
        jobs = Jobs(self.settings)
        with closing(jobs.redis):
            for part in self._parts(jobs):
                while not part.is_ready():
                    on_wait(part.name)
                    self._check_progress(part, deadline)
                    time.sleep(WATCH_EVERY_S)

    def run_forever(self) -> None:
        """Wait for SIGINT or SIGTERM, then stop. Must be called in the main thread.

        Raises:
            LorabelError: a part has ended and cannot be loaded any more.
        """
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: self._stop.set())
        self._stop.wait()
        self.stop()
        if self._failure is not None:
            raise LorabelError(self._failure)

    def stop(self) -> None:
        """Stop all processes, Redis last: a worker that loses Redis during a job counts the job as failed."""
        self._stop.set()
        if self._watcher.is_alive():
            self._watcher.join()
        end([child for child in self._children if child.name != REDIS])
        end([child for child in self._children if child.name == REDIS])
        self._claim.release()
        self._keeper.close()

    def start_redis(self) -> None:
        """Start the embedded Redis and wait until it answers. Data that it cannot start with are set aside."""
        redis = EmbeddedRedis(self.settings)
        self.add(REDIS, redis.command(), before_restart=redis.mend)
        child = self._child(REDIS)
        deadline = time.monotonic() + REDIS_TIMEOUT_S
        jobs = Jobs(self.settings)
        with closing(jobs.redis):
            part = self._redis_part(jobs)
            while not part.is_ready():
                self._check_progress(part, deadline)
                self._restart_if_dead(child)
                time.sleep(REDIS_POLL_S)

    def _parts(self, jobs: Jobs) -> Iterator[Part]:
        """Every part that must answer. Redis is a part also if REDIS_URL names one that is not ours."""
        backend = f"{address_of_backend(self.settings)}/livez"
        model_server = f"{self.settings.model_server_url}/livez"
        yield Part(MODEL_SERVER, model_server, lambda: answers_http(model_server))
        yield Part(BACKEND, backend, lambda: answers_http(backend))
        yield self._redis_part(jobs)
        for queue_name in WORKERS:
            yield Part(worker_name(queue_name), "its queue", self._worker_check(jobs, queue_name))

    def _redis_part(self, jobs: Jobs) -> Part:
        return Part(REDIS, "REDIS_URL" if self.settings.redis_url else "its socket", jobs.is_reachable)

    def _check_progress(self, part: Part, deadline: float) -> None:
        """Raise LorabelError if the part cannot be loaded, is late, or was restarted too often."""
        if self._failure is not None:
            raise LorabelError(self._failure)
        child = next((child for child in self._children if child.name == part.name), None)
        if child is not None and child.cannot_load:
            raise LorabelError(child.fault())
        if time.monotonic() > deadline or (child is not None and child.restarts > MOST_RESTARTS):
            tail = self._log_tail(part.name)
            raise LorabelError(f"{part.name} does not answer at {part.address}; its log ends:\n{tail}")

    def _worker_check(self, jobs: Jobs, queue_name: str) -> Callable[[], bool]:
        return lambda: is_taking_jobs(jobs, queue_name, self.pids[worker_name(queue_name)])

    def _watch(self) -> None:
        while not self._stop.wait(WATCH_EVERY_S):
            try:
                if self._claim.is_held:
                    self._keeper.ensure_running()
                for child in list(self._children):
                    self._restart_if_dead(child)
            except OSError:
                # No process or file can be made now. The watcher must not end for that.
                log.exception("a process cannot be started; the next attempt comes at once")

    def _restart_if_dead(self, child: Child) -> None:
        if child.process is None or child.process.poll() is None:
            return
        if child.restart_at == 0.0:
            # Processes that it started may live on and hold its port. They may finish what they are doing.
            child.signal(signal.SIGTERM)
            pause_s = child.schedule_restart()
            if child.failed_loads > MOST_FAILED_LOADS:
                self._end_for(child)
            elif child.failed_loads:
                log.warning("%s; it is started again in %.0f s", child.fault(), pause_s)
            else:
                log.warning("%s ended with status %s; it is started again", child.name, child.process.returncode)
        elif time.monotonic() >= child.restart_at:
            child.signal(signal.SIGKILL)
            if child.before_restart is not None:
                child.before_restart(child.process.returncode)
            child.restart_at, child.restarts = 0.0, child.restarts + 1
            child.start()
            self._record()

    def _end_for(self, child: Child) -> None:
        """Let `run_forever` end: a part cannot be loaded, and further tries are of no use."""
        self._failure = f"{child.fault()}; it was tried {child.failed_loads} times"
        self._stop.set()

    def _record(self) -> None:
        """Write down which processes run, for the keeper and for the next supervisor."""
        with self._recording:
            leaders = [leader for child in self._children if (leader := child.session_leader()) is not None]
            self._claim.write(leaders)

    def _child(self, name: str) -> Child:
        return next(child for child in self._children if child.name == name)

    def _log_tail(self, name: str, lines: int = 15) -> str:
        path = log_file(self.settings, name)
        text = path.read_text(errors="replace") if path.exists() else "(there is no log)"
        return "\n".join(text.splitlines()[-lines:])


def check_certificates(settings: Settings) -> None:
    """Raise SettingsError if a certificate of our own ports cannot be used."""
    for certificate, key in (
        (settings.tls_certificate, settings.tls_key),
        (settings.model_server_tls_certificate, settings.model_server_tls_key),
    ):
        if certificate is not None:
            server_tls(certificate, key)


def address_of_backend(settings: Settings) -> str:
    """The address at which the backend listens, e.g. `http://127.0.0.1:9090`."""
    scheme = "http" if settings.tls_certificate is None else "https"
    return f"{scheme}://{settings.host}:{settings.port}"


def worker_name(queue_name: str) -> str:
    """Name of the process that does the queue's jobs, e.g. `worker-light`."""
    return f"worker-{queue_name}"


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


def gunicorn_config() -> Path:
    """Path of the backend's gunicorn settings. It is found without an import of the backend."""
    package = find_spec("backend")
    if package is None or not package.submodule_search_locations:
        raise SettingsError("the package `backend` is not installed beside `lorabel`; install Lorabel again")
    return Path(package.submodule_search_locations[0]) / "gunicorn.conf.py"
