"""The embedded Redis's files are removed only where none runs that writes them; what trackers have is named."""

import shutil
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest

from lorabel.commands import forgotten_places
from lorabel.commands.forgotten_places import Places
from lorabel.database.forgetting import Forgotten
from lorabel.database.forgotten_events import Subject
from lorabel.settings import Settings


@pytest.fixture
def embedded() -> Iterator[Settings]:
    """With a short path, since the socket is in it."""
    folder = Path(mkdtemp(prefix="lorabel-"))
    (folder / "redis").mkdir()
    (folder / "redis" / "dump.rdb").write_bytes(b"jobs")
    yield Settings(data_dir=folder, redis_url=None)
    shutil.rmtree(folder)


def test_files_of_a_redis_that_does_not_answer_stay(embedded: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forgotten_places, "REDIS_ANSWER_S", 0.1)
    places = Places()
    with socket.socket(socket.AF_UNIX) as busy:
        busy.bind(str(embedded.redis_socket))
        busy.listen()
        forgotten_places._clean_redis(embedded, 1, Subject(), places)
    assert (embedded.data_dir / "redis" / "dump.rdb").exists()
    assert len(places.left) == 1 and places.left[0].endswith("run the command again")


@pytest.mark.parametrize("is_killed", [False, True])
def test_files_of_a_redis_that_has_ended_are_removed(embedded: Settings, is_killed: bool) -> None:
    if is_killed:
        with socket.socket(socket.AF_UNIX) as former:
            former.bind(str(embedded.redis_socket))
    places = Places()
    forgotten_places._clean_redis(embedded, 1, Subject(), places)
    assert not (embedded.data_dir / "redis").exists() and places.left == []


@pytest.mark.parametrize(("tracker", "where"), [("wandb", "Weights & Biases"), ("mlflow", "MLflow")])
def test_adapters_that_a_tracker_has_are_named(tmp_path: Path, tracker: Any, where: str) -> None:
    sentences = forgotten_places.artifacts_elsewhere(Settings(data_dir=tmp_path, tracker=tracker), 3)
    assert sentences == [f"{where} may have adapters and curves of its runs, named p3.run*: delete them there"]


def test_adapters_that_a_former_tracker_has_are_named_with_its_folder(tmp_path: Path) -> None:
    (tmp_path / "tracking" / "wandb").mkdir(parents=True)
    sentences = forgotten_places.artifacts_elsewhere(Settings(data_dir=tmp_path), 3)
    assert len(sentences) == 1 and sentences[0].endswith(f"and their files in {tmp_path / 'tracking' / 'wandb'}")


def test_a_budget_that_begins_anew_is_said() -> None:
    spent = Forgotten(Counter({"privacy_release": 2}))
    assert "begins anew" in forgotten_places.budget_advice(Subject(), spent)
    assert forgotten_places.budget_advice(Subject(), Forgotten()) == ""
    assert forgotten_places.budget_advice(Subject(task_id=7), Forgotten()) == ""
