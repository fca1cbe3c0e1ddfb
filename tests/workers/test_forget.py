"""`lorabel forget` against the database, the files and Redis as the loop leaves them: no trace is left."""

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

import pytest
from redis import Redis
from sqlalchemy import select
from typer.testing import CliRunner

from lorabel.commands.cli import app
from lorabel.database import (
    forgetting,
    project_heads,
    projects,
    training_runs,
    versions,
)
from lorabel.database.forgotten_events import Subject
from lorabel.database.store import Store
from lorabel.database.tables import (
    Annotation,
    Event,
    Project,
)
from lorabel.settings import Settings
from tests.backend.fake_model_server import FakeModelServer
from tests.servers import MissingServerError, redis_server
from tests.skipped import skip_or_fail
from tests.workers.events import PROJECT, put
from tests.workers.kept_data import (
    ANNOTATION,
    ANNOTATOR,
    MARKER,
    OTHERS,
    TASK,
    files_with,
    fill,
    fit,
    rows_with,
    submitted,
    traces,
)
from tests.workers.test_requeue_sweep import RecordedJobs
from workers.collect import apply_pending
from workers.head_fitting import FittedHead, _keep
from workers.services import Services

pytestmark = [pytest.mark.servers, pytest.mark.slow]


@pytest.fixture(scope="module")
def running_redis() -> Iterator[str]:
    try:
        with redis_server() as server:
            yield server.url()
    except MissingServerError as error:
        skip_or_fail(str(error))


@pytest.fixture
def settings(settings: Settings, running_redis: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """As the command reads them from the environment."""
    with Redis.from_url(running_redis) as redis:
        redis.flushall()
    monkeypatch.setenv("DATA_DIR", str(settings.data_dir))
    monkeypatch.setenv("REDIS_URL", running_redis)
    if settings.database_url is not None:
        monkeypatch.setenv("DATABASE_URL", settings.database_url)
    return settings.model_copy(update={"redis_url": running_redis})


@pytest.fixture
def services(settings: Settings, store: Store, model_server: FakeModelServer) -> Iterator[Services]:
    real = Services.open(settings.model_copy(update={"model_server_url": model_server.url}))
    yield replace(real, jobs=cast(Any, RecordedJobs()))
    real.close()


def forget(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["forget", str(PROJECT), *arguments], env=dict(os.environ))
    assert result.exit_code == 0, result.output
    return result.output


def test_a_task_leaves_no_trace_and_the_others_stay(services: Services) -> None:
    fill(services)
    assert len(traces(services, MARKER)) > 10, "the test must have something to find"
    planned = forget("--task", str(TASK), "--dry-run")
    assert "would be deleted" in planned and len(traces(services, MARKER)) > 10
    said = forget("--task", str(TASK), "--yes")
    assert traces(services, MARKER, str(TASK), str(ANNOTATION)) == []
    assert f"p{PROJECT}.v1: trained on 1 of them" in said
    assert f"p{PROJECT}.v2 (live): its training began from p{PROJECT}.v1" in said
    assert f"p{PROJECT}.v3" not in said
    with services.store.read() as session:
        left = session.scalars(select(Annotation.id).order_by(Annotation.id)).all()
        created = session.scalars(select(Event).where(Event.action == "TASKS_CREATED")).one()
        deletions = session.scalars(select(Event).where(Event.action == "ANNOTATIONS_DELETED")).all()
    assert list(left) == list(OTHERS)
    assert [json.loads(event.payload)["annotations"] for event in deletions] == [[{"id": ANNOTATION + 2}]]
    assert [task["id"] for task in json.loads(created.payload)["tasks"]] == [77]


def test_heads_are_fitted_again_without_the_task(services: Services) -> None:
    fill(services)
    forget("--task", str(TASK), "--yes")
    with services.store.read() as session:
        assert not project_heads.of_project(session, PROJECT)
    fit(services)
    with services.store.read() as session:
        heads = project_heads.answering_with_annotation_ids(session, session.get_one(Project, PROJECT))
    assert [head.annotation_ids for head in heads.values()] == [list(OTHERS)]
    assert traces(services, MARKER) == []


def test_a_version_that_is_made_live_again_gets_its_head_without_the_task(services: Services) -> None:
    fill(services)
    forget("--task", str(TASK), "--yes")
    assert not (services.adapter_folders.root / f"p{PROJECT}.v1" / "label" / "head.safetensors").exists()
    with services.store.write() as session:
        project = projects.get(session, PROJECT, is_locked=True)
        versions.make_live(session, project, 1)
        project_heads.restore(session, project)
    fit(services)
    with services.store.read() as session:
        heads = project_heads.answering_with_annotation_ids(session, session.get_one(Project, PROJECT))
    assert [head.annotation_ids for head in heads.values()] == [list(OTHERS)]


def test_an_annotator_leaves_no_trace(services: Services) -> None:
    fill(services)
    with services.store.write() as session:
        marked = session.get_one(Annotation, (PROJECT, ANNOTATION))
        marked.task_data = None  # the task's own data is not the annotator's
    forget("--annotator", str(ANNOTATOR), "--yes")
    assert rows_with(services.store, str(ANNOTATION), str(ANNOTATOR)) == []
    with services.store.read() as session:
        assert session.get(Annotation, (PROJECT, 1)) is not None


def test_a_project_leaves_no_trace(services: Services) -> None:
    fill(services)
    forget("--yes")
    assert traces(services, MARKER, str(TASK)) == []
    with services.store.read() as session:
        assert session.scalars(select(Project.id)).all() == []
        assert session.scalars(select(Event.id)).all() == []
    # The highest number stays as an empty folder, so that the model server never takes a new one for it.
    left = sorted(path.name for path in services.adapter_folders.root.rglob("*"))
    assert left == [f"p{PROJECT}.h1", f"p{PROJECT}.v3"]


def test_what_is_forgotten_twice_says_that_nothing_is_kept(services: Services) -> None:
    fill(services)
    forget("--task", str(TASK), "--yes")
    assert "annotation" not in forget("--task", str(TASK), "--yes").replace("annotations", "")
    forget("--yes")
    assert "nothing is kept" in forget("--yes")


@pytest.mark.parametrize("calls", [1, 4, 9])
def test_a_project_that_is_half_deleted_is_deleted_by_the_next_call(
    services: Services, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(services)
    real, left = forgetting._delete, iter(range(calls))

    def killed(*arguments: Any) -> int:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(forgetting, "_delete", killed)
    with pytest.raises(KeyboardInterrupt):
        forgetting.forget(services.store, PROJECT, Subject())
    monkeypatch.undo()
    monkeypatch.setenv("DATA_DIR", str(services.settings.data_dir))
    monkeypatch.setenv("REDIS_URL", services.settings.redis)
    monkeypatch.setenv("DATABASE_URL", services.settings.database)
    forget("--yes")
    assert traces(services, MARKER, str(TASK)) == []


def test_an_event_that_comes_later_is_new_data(services: Services) -> None:
    fill(services)
    forget("--task", str(TASK), "--yes")
    put(services.store, submitted(0, TASK, ANNOTATION))
    apply_pending(services.store)
    with services.store.read() as session:
        assert session.get_one(Annotation, (PROJECT, ANNOTATION)).task_id == TASK


def test_retraining_removes_the_adapters_that_have_learned_from_it(services: Services) -> None:
    fill(services)
    said = forget("--task", str(TASK), "--retrain", "--yes")
    with services.store.read() as session:
        project = projects.get(session, PROJECT)
        run = training_runs.find_queued(session, PROJECT)
        new = training_runs.count_new(session, [PROJECT])[PROJECT]
    assert project.live_number == 3, "the newest that has not learned from it"
    assert run is not None and f"run {run.id}" in said and new == len(OTHERS)
    assert not (services.adapter_folders.root / f"p{PROJECT}.v1").exists()
    assert not (services.adapter_folders.root / f"p{PROJECT}.v2").exists()
    assert (services.adapter_folders.root / f"p{PROJECT}.v3" / "label" / "adapter_config.json").exists()


def test_a_fit_that_is_under_way_is_thrown_away_with_its_folder(services: Services) -> None:
    fill(services)
    with services.store.read() as session:
        before = projects.get(session, PROJECT)
    forget("--task", str(TASK), "--yes")
    _keep(services, before, {"label": FittedHead(MARKER.encode(), "labels", None, [ANNOTATION])}, is_complete=True)
    assert traces(services, MARKER, str(ANNOTATION)) == []


def test_a_kill_between_rows_and_files_is_made_good_by_the_next_call(services: Services) -> None:
    fill(services)
    forgetting.forget(services.store, PROJECT, Subject(TASK))
    assert files_with(services.settings.data_dir, MARKER)
    forget("--task", str(TASK), "--yes")
    assert traces(services, MARKER) == []
    forgetting.forget(services.store, PROJECT, Subject())
    forget("--yes")
    assert not list(services.adapter_folders.root.glob("*/*"))


def test_an_unknown_project_is_an_error(services: Services) -> None:
    result = CliRunner().invoke(app, ["forget", "4", "--yes"])
    assert result.exit_code != 0 and "project 4 is not known" in str(result.exception)
