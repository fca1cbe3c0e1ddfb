import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lorabel.commands.supervisor import Supervisor, check_port, gunicorn_config, redis_command
from lorabel.errors import LorabelError, SettingsError
from lorabel.settings import Settings

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]


@pytest.fixture
def supervisor(settings: Settings) -> Iterator[Supervisor]:
    supervisor = Supervisor(settings)
    supervisor._watcher.start()
    yield supervisor
    supervisor.stop()


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_process_that_ends_is_started_again(supervisor: Supervisor) -> None:
    supervisor.add("sleeper", SLEEP)
    first_pid = supervisor.pids["sleeper"]
    os.kill(first_pid, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while supervisor.pids["sleeper"] == first_pid and time.monotonic() < deadline:
        time.sleep(0.05)
    assert is_running(supervisor.pids["sleeper"]) and supervisor.pids["sleeper"] != first_pid


def test_stop_ends_processes_that_ignore_sigterm(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("lorabel.commands.supervisor.STOP_TIMEOUT_S", 1.0)
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


def test_a_taken_port_names_the_port_and_the_variable() -> None:
    with socket.socket() as other_program:
        other_program.bind(("127.0.0.1", 0))
        other_program.listen()
        port = other_program.getsockname()[1]
        with pytest.raises(SettingsError, match=f"port {port} is taken.*set PORT"):
            check_port("127.0.0.1", port, "PORT")


def test_the_embedded_redis_listens_on_a_private_socket_only(settings: Settings) -> None:
    command = redis_command(settings)
    assert command[command.index("--port") + 1] == "0"
    assert command[command.index("--unixsocketperm") + 1] == "700"


def test_without_redis_server_the_error_says_what_to_install(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lorabel.commands.supervisor.shutil.which", lambda name: None)
    monkeypatch.setattr("lorabel.commands.supervisor._bundled_redis", lambda: None)
    with pytest.raises(SettingsError, match=r"install Redis.*or set REDIS_URL"):
        redis_command(settings)


def test_a_long_data_dir_still_gets_a_socket_path_that_fits(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / ("x" * 120))
    assert len(str(settings.redis_socket)) <= 100
    assert settings.redis_socket == Settings(data_dir=tmp_path / ("x" * 120)).redis_socket


def test_the_gunicorn_settings_of_the_backend_are_found() -> None:
    assert gunicorn_config().is_file()
