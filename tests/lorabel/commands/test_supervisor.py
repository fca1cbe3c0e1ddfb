import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from lorabel.commands.processes import start_time
from lorabel.commands.supervisor import Supervisor, check_port, gunicorn_config
from lorabel.errors import LorabelError, SettingsError
from lorabel.settings import Settings
from tests.servers import free_port

pytestmark = pytest.mark.slow

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]
WAIT_S = 30.0
# As a model server that has no model: prints why, and ends with the status of gunicorn.
LINE = "2026-11-26 18:54:16,201 ERROR __main__: cannot start: MODEL_X='nowhere' cannot be loaded"
CANNOT_START = f"import sys; print({LINE!r}); print('[2026] [1] [INFO] Shutting down'); sys.exit(4)"
NO_MODEL = [sys.executable, "-c", CANNOT_START]
# As gunicorn: listens, starts a process that shares the socket, and prints its id. Fails if the port is taken.
LISTEN = """
import os, socket, sys, time
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
pid = os.fork()
if pid: print(pid, flush=True)
time.sleep(600)
"""
# A supervisor that prints the ids of itself, of a part, and of the keeper.
SUPERVISE = """
import sys, time
from pathlib import Path
from lorabel.commands.supervisor import Supervisor
from lorabel.settings import Settings
supervisor = Supervisor(Settings(data_dir=Path(sys.argv[1])))
supervisor.add("listener", [sys.executable, "-c", sys.argv[2], sys.argv[3]])
print(supervisor.pids["listener"], supervisor.pids["keeper"], flush=True)
time.sleep(600)
"""


@dataclass(frozen=True)
class KillableSupervisor:
    """A supervisor in a process of its own, with a part of two processes."""

    process: "subprocess.Popen[str]"
    keeper: int
    started: tuple[int, int]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def killable_supervisor(settings: Settings) -> Iterator[KillableSupervisor]:
    argv = [sys.executable, "-c", SUPERVISE, str(settings.data_dir), LISTEN, str(free_port())]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    leader, keeper = map(int, process.stdout.readline().split())
    log = settings.data_dir / "logs" / "listener.log"
    wait_until(lambda: log.read_text().endswith("\n"))
    started = (leader, int(log.read_text()))
    yield KillableSupervisor(process, keeper, started)
    process.kill()
    process.communicate()
    for pid in (*started, keeper):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def supervisor(settings: Settings) -> Iterator[Supervisor]:
    supervisor = Supervisor(settings)
    supervisor._watcher.start()
    yield supervisor
    supervisor.stop()


def is_running(pid: int) -> bool:
    return start_time(pid) is not None


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.05)


def test_a_process_that_ends_is_started_again(supervisor: Supervisor) -> None:
    supervisor.add("sleeper", SLEEP)
    first_pid = supervisor.pids["sleeper"]
    os.kill(first_pid, signal.SIGKILL)
    wait_until(lambda: supervisor.pids["sleeper"] != first_pid)
    assert is_running(supervisor.pids["sleeper"])


def test_what_an_ended_process_left_running_is_ended_before_it_is_started_again(
    supervisor: Supervisor,
) -> None:
    """As when gunicorn's master is killed: its workers would hold the port."""
    log = supervisor.settings.data_dir / "logs" / "listener.log"
    supervisor.add("listener", [sys.executable, "-c", LISTEN, str(free_port())])
    wait_until(lambda: bool(log.read_text()))
    os.kill(supervisor.pids["listener"], signal.SIGKILL)
    wait_until(lambda: len(log.read_text().split()) > 1)
    assert "Error" not in log.read_text(), "the port was taken"
    orphan, successor = map(int, log.read_text().split())
    assert is_running(successor) and not is_running(orphan)


def test_a_killed_supervisor_leaves_no_process(killable_supervisor: "KillableSupervisor") -> None:
    killable_supervisor.kill()
    wait_until(lambda: not any(map(is_running, killable_supervisor.started)))


def test_what_a_killed_supervisor_and_its_killed_keeper_left_is_ended_by_the_next(
    killable_supervisor: "KillableSupervisor", supervisor: Supervisor, caplog: pytest.LogCaptureFixture
) -> None:
    os.kill(killable_supervisor.keeper, signal.SIGKILL)
    killable_supervisor.kill()
    leader, member = killable_supervisor.started
    assert is_running(leader) and is_running(member)
    supervisor.claim()
    assert not is_running(leader) and not is_running(member)
    assert f"ending listener (process {leader})" in caplog.text


def test_a_second_supervisor_names_the_first_and_harms_nothing(
    killable_supervisor: "KillableSupervisor", supervisor: Supervisor
) -> None:
    with pytest.raises(SettingsError, match=f"in use by process {killable_supervisor.process.pid}"):
        supervisor.add("sleeper", SLEEP)
    supervisor.stop()
    assert all(map(is_running, [*killable_supervisor.started, killable_supervisor.keeper]))


def test_stop_leaves_neither_keeper_nor_record(supervisor: Supervisor) -> None:
    supervisor.add("sleeper", SLEEP)
    wait_until(lambda: "sleeper" in (supervisor.settings.data_dir / "up.json").read_text())
    keeper = supervisor.pids["keeper"]
    supervisor.stop()
    assert not is_running(keeper)
    assert not (supervisor.settings.data_dir / "up.json").exists()


def test_a_killed_keeper_is_started_again(supervisor: Supervisor) -> None:
    supervisor.add("sleeper", SLEEP)
    first = supervisor.pids["keeper"]
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: supervisor.pids.get("keeper", first) != first)


def test_data_dir_is_made_private(supervisor: Supervisor) -> None:
    supervisor.settings.data_dir.chmod(0o755)
    supervisor.add("sleeper", SLEEP)
    assert stat.S_IMODE(supervisor.settings.data_dir.stat().st_mode) == 0o700


def test_files_of_parts_are_private_in_a_shared_folder_too(supervisor: Supervisor) -> None:
    path = supervisor.settings.data_dir / "database"
    supervisor.add("writer", [sys.executable, "-c", f"open({str(path)!r}, 'w')"])
    wait_until(path.exists)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_stop_ends_processes_that_ignore_sigterm(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("lorabel.commands.child.STOP_TIMEOUT_S", 1.0)
    ignore = "signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ignoring', flush=True); time.sleep(600)"
    supervisor.add("stubborn", [sys.executable, "-c", f"import signal, time; {ignore}"])
    supervisor.add("sleeper", SLEEP)
    log = supervisor.settings.data_dir / "logs" / "stubborn.log"
    while "ignoring" not in log.read_text():
        time.sleep(0.05)
    pids = list(supervisor.pids.values())
    supervisor.stop()
    assert not any(is_running(pid) for pid in pids)


def test_a_part_that_never_answers_is_named_with_the_end_of_its_log(supervisor: Supervisor) -> None:
    supervisor.add("model_server", [sys.executable, "-c", "print('no weights here')"])
    while supervisor._child("model_server").restarts == 0:
        time.sleep(0.05)
    with pytest.raises(LorabelError, match=r"(?s)model_server does not answer.*no weights here"):
        supervisor.wait_until_ready(0.1)


def test_a_part_that_cannot_be_loaded_is_not_tried_again_and_its_reason_is_told(supervisor: Supervisor) -> None:
    supervisor.add("model_server", NO_MODEL)
    reason = r"model_server: cannot start: MODEL_X='nowhere' cannot be loaded; its log is .*model_server\.log"
    with pytest.raises(LorabelError, match=reason):
        supervisor.wait_until_ready(WAIT_S)
    assert supervisor._child("model_server").restarts == 0


def test_a_part_that_cannot_be_loaded_any_more_is_tried_some_times_and_then_the_supervisor_ends(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("lorabel.commands.child.RETRY_LOAD_S", 0.05, raising=False)
    supervisor.add("sleeper", SLEEP)
    sleeper = supervisor.pids["sleeper"]
    supervisor.add("model_server", NO_MODEL)
    give_up = threading.Timer(WAIT_S, os.kill, (os.getpid(), signal.SIGINT))
    give_up.start()
    with pytest.raises(LorabelError, match=r"MODEL_X='nowhere' cannot be loaded; .*; it was tried 6 times"):
        supervisor.run_forever()
    give_up.cancel()
    assert not is_running(sleeper)
    log = supervisor.settings.data_dir / "logs" / "model_server.log"
    assert log.read_text().count("cannot start") == 6
    assert "MODEL_X='nowhere' cannot be loaded; its log is" in caplog.text


@pytest.mark.slow
def test_redis_and_workers_that_do_not_answer_are_waited_for(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    supervisor = Supervisor(settings.model_copy(update={"redis_url": f"unix://{settings.data_dir}/none.sock"}))
    monkeypatch.setattr("lorabel.commands.supervisor.answers_http", lambda url: True)
    waited: list[str] = []
    with pytest.raises(LorabelError, match="redis does not answer at REDIS_URL"):
        supervisor.wait_until_ready(0.5, waited.append)
    assert set(waited) == {"redis"}
    monkeypatch.setattr("lorabel.commands.supervisor.Jobs.is_reachable", lambda jobs: True)
    supervisor.add("worker-light", [sys.executable, "-c", "import time; print('no jobs for me'); time.sleep(600)"])
    with pytest.raises(LorabelError, match=r"(?s)worker-light does not answer at its queue.*no jobs for me"):
        supervisor.wait_until_ready(2.0, waited.append)
    assert set(waited) == {"redis", "worker-light"}
    supervisor.stop()


def test_a_taken_port_names_the_port_and_the_variable() -> None:
    with socket.socket() as other_program:
        other_program.bind(("127.0.0.1", 0))
        other_program.listen()
        port = other_program.getsockname()[1]
        with pytest.raises(SettingsError, match=f"port {port} is taken.*set PORT"):
            check_port("127.0.0.1", port, "PORT")


def test_the_gunicorn_settings_of_the_backend_are_found() -> None:
    assert gunicorn_config().is_file()
