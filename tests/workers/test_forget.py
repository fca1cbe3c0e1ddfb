"""`lorabel forget` against the database, the files and Redis as the loop leaves them: no trace is left."""

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
from redis import Redis
from rq import Queue
from rq.serializers import JSONSerializer
from sqlalchemy import select
from typer.testing import CliRunner

from lorabel.commands.cli import app
from lorabel.contracts import EmbedInput
from lorabel.database import (
    bulk_runs,
    forgetting,
    instructions,
    project_heads,
    projects,
    task_embeddings,
    training_runs,
    versions,
)
from lorabel.database.base_table import Table
from lorabel.database.forgotten_events import Subject
from lorabel.database.jobs import LIGHT, Jobs
from lorabel.database.store import Store
from lorabel.database.tables import (
    Annotation,
    Event,
    EventState,
    LabelErrorReport,
    ModelVersion,
    Project,
    RunState,
    TrainingRun,
    UnreadableTask,
    VersionState,
)
from lorabel.database.task_embeddings import TaskVector
from lorabel.settings import Settings
from tests.backend import requests
from tests.backend.fake_model_server import FakeModelServer
from tests.servers import MissingServerError, redis_server
from tests.workers.events import PROJECT, annotation, deletion, put
from tests.workers.test_requeue_sweep import RecordedJobs
from workers.collect import apply_pending
from workers.head_fitting import FittedHead, HeadFitter, _keep
from workers.services import Services

pytestmark = [pytest.mark.servers, pytest.mark.slow]

MARKER = "Zyxomarker-4711"
TASK = 987654321098
ANNOTATION = 335577991
ANNOTATOR = 550011
OTHERS = range(1, 7)


@pytest.fixture(scope="module")
def running_redis() -> Iterator[str]:
    try:
        with redis_server() as server:
            yield server.url()
    except MissingServerError as error:
        pytest.skip(str(error))


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


def submitted(number: int, task_id: int, annotation_id: int, by: int = 1, **data: str) -> dict[str, Any]:
    body = annotation(annotation_id, task_id, ("red", "blue")[number % 2], number)
    body["annotation"]["completed_by"] = by
    body["task"]["data"] = {"image": f"http://pictures.test/{('red', 'blue')[number % 2]}{number}.png", **data}
    return body


def fit(services: Services) -> None:
    fitter = HeadFitter(services)
    services.heads_wanted.set()
    while services.heads_wanted.is_set():
        services.heads_wanted.clear()
        if fitter.fit_due():
            fitter.requests.join()


def fill(services: Services) -> None:
    """Everything that the loop keeps of a task whose data, annotation and prediction have the marker."""
    store, folder = services.store, services.settings.data_dir
    projects.upsert(store, PROJECT, label_config=requests.CONFIG)
    marked = submitted(0, TASK, ANNOTATION, by=ANNOTATOR, note=f"said {MARKER} here")
    shown = {"id": 5, "result": [{"value": {"text": MARKER}}], "score": 0.5, "model_version": f"v {MARKER}"}
    marked["annotation"] |= {"prediction": shown, "parent_prediction": 5}
    marked["annotation"]["result"][0]["meta"] = {"text": [MARKER]}
    put(store, *(submitted(number, number, number) for number in OTHERS), marked)
    apply_pending(store)
    fit(services)
    embed_input = EmbedInput.model_validate({"contents": [{"modality": "text", "text": MARKER}]})
    vectors = {TASK: TaskVector("space", b"\0\0"), 1: TaskVector("space", b"\0\0")}
    task_embeddings.write(store, PROJECT, dict.fromkeys(vectors, embed_input), vectors)
    instructions.note_typed(store, PROJECT, TASK, "label", f"Ask {MARKER}", [])
    answer = [{"from_name": "label", "value": {"text": "yes"}}]
    instructions.note_typed(store, PROJECT, TASK, "label", f"Ask {MARKER}", answer)
    bulk_runs.request(store, PROJECT, "test", only_unlabeled=True, task_ids=[TASK])
    failed = submitted(9, TASK, ANNOTATION + 1, note=MARKER)
    two = failed | {
        "action": "TASKS_CREATED",
        "tasks": [{"id": TASK, "data": {"t": MARKER}}, {"id": 77, "data": {"t": "kept"}}],
    }
    del two["annotation"], two["task"]
    put(store, failed, two, deletion(ANNOTATION), deletion(ANNOTATION + 2))
    early = submitted(5, TASK, ANNOTATION + 3, note=MARKER)
    early["project"]["id"] = PROJECT
    with store.write() as session:
        session.add(
            Event(action="ANNOTATION_CREATED", project_id=None, payload=json.dumps(early), state="ignored")
        )
    with store.write() as session:
        project = session.get_one(Project, PROJECT)
        project.instructions = {"kept": {"label": f"Ask {MARKER}"}, "by_hand": {}}
        reasons = {"label": {str(ANNOTATION): f"odd {MARKER}", "1": "odd"}}
        session.add_all(
            [
                UnreadableTask(project_id=PROJECT, task_id=TASK, reason=MARKER, is_permanent=True),
                TrainingRun(
                    project_id=PROJECT,
                    state=RunState.FINISHED,
                    reason="test",
                    annotation_ids=[1, ANNOTATION],
                    metrics={"skipped": reasons, "left_out": reasons, "still_new": 0},
                ),
                LabelErrorReport(
                    project_id=PROJECT,
                    run_id=1,
                    version_number=0,
                    checked=2,
                    found=1,
                    left_out=[],
                    errors=[{"task_id": TASK, "annotation_id": ANNOTATION, "given": MARKER}],
                ),
                version(1, [1, 2, ANNOTATION], 0, VersionState.RETIRED),
                version(2, [1, 2], 1, VersionState.LIVE),
                version(3, [1, 2], 0, VersionState.RETIRED),
            ]
        )
        project.live_number = 2
        heads = project_heads.answering_with_annotation_ids(session, project)
        assert ANNOTATION in heads["label"].annotation_ids
        project_heads.store_with(versions.get(session, PROJECT, 1), project, heads)
        failed_event = session.scalars(select(Event).where(Event.payload == json.dumps(failed))).first()
        assert failed_event is not None
        failed_event.state, failed_event.error = EventState.FAILED, f"KeyError: {MARKER}"
    services.adapter_folders.write(f"p{PROJECT}.v1", partial(write_adapter, MARKER))
    for number in (2, 3):
        services.adapter_folders.write(f"p{PROJECT}.v{number}", partial(write_adapter, "others"))
    (folder / "logs").mkdir()
    (folder / "logs" / "worker-light.log").write_text(f"task {TASK}: {MARKER}\n")
    (folder / "logs" / "worker-light.log.1").write_text(f"task {TASK}: {MARKER}\n")
    (folder / "redis.broken").mkdir()
    (folder / "redis.broken" / "appendonly.aof").write_text(MARKER)
    fail_job(services.settings)
    Jobs(services.settings).look_ahead(PROJECT, after=TASK)


def version(number: int, trained_on: list[int], parent: int, state: str) -> ModelVersion:
    return ModelVersion(
        project_id=PROJECT,
        number=number,
        parent=parent,
        state=state,
        base_models={},
        adapters={"label": f"p{PROJECT}.v{number}/label"},
        metrics={},
        trained_on=trained_on,
    )


def write_adapter(learned: str, folder: Path) -> None:
    (folder / "label").mkdir()
    (folder / "label" / "adapter_config.json").write_text("{}")
    (folder / "label" / "head.safetensors").write_text(f"averages of {learned}")


def fail_job(settings: Settings) -> None:
    with Redis.from_url(settings.redis) as redis:
        queue = Queue(LIGHT, connection=redis, serializer=JSONSerializer)
        job = queue.enqueue_call("workers.collect.collect", job_id="collect-1", failure_ttl=3600)
        job.meta["what"] = MARKER
        job.save()
        queue.remove(job.id)
        queue.failed_job_registry.add(job, ttl=3600, exc_string=f"KeyError: {MARKER} of task {TASK}")


def forget(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["forget", str(PROJECT), *arguments], env=dict(os.environ))
    assert result.exit_code == 0, result.output
    return result.output


def rows_with(store: Store, *words: str) -> list[str]:
    """The rows of all tables that have one of the words in any column."""
    with store.engine.connect() as connection:
        return [
            f"{table.name}: {row}"
            for table in Table.metadata.sorted_tables
            for row in connection.execute(select(table))
            if any(word in repr(tuple(row)) for word in words)
        ]


def files_with(folder: Path, *words: str) -> list[Path]:
    return [
        path
        for path in folder.rglob("*")
        if path.is_file() and any(word.encode() in path.read_bytes() for word in words)
    ]


def keys_with(settings: Settings, *words: str) -> list[str]:
    with Redis.from_url(settings.redis) as redis:
        return [
            key.decode(errors="replace")
            for key in redis.scan_iter()
            if any(word.encode() in key + b" " + (redis.dump(key) or b"") for word in words)
        ]


def traces(services: Services, *words: str) -> list[Any]:
    found: list[Any] = rows_with(services.store, *words)
    found += files_with(services.settings.data_dir, *words)
    return found + keys_with(services.settings, *words)


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
