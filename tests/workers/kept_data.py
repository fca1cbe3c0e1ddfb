"""What the loop keeps of a task, in every place, and where a word of it is found again."""

import json
from functools import partial
from pathlib import Path
from typing import Any

from redis import Redis
from rq import Queue
from rq.serializers import JSONSerializer
from sqlalchemy import select

from lorabel.contracts import EmbedInput
from lorabel.database import (
    bulk_runs,
    instructions,
    project_heads,
    projects,
    task_embeddings,
    versions,
)
from lorabel.database.base_table import Table
from lorabel.database.jobs import LIGHT, Jobs
from lorabel.database.store import Store
from lorabel.database.tables import (
    Event,
    EventState,
    LabelErrorReport,
    ModelVersion,
    Project,
    RunState,
    TaskOutcome,
    TrainingRun,
    UnreadableTask,
    VersionState,
)
from lorabel.database.task_embeddings import TaskVector
from lorabel.settings import Settings
from tests.backend import requests
from tests.workers.events import PROJECT, annotation, deletion, put
from workers.collect import apply_pending
from workers.head_fitting import HeadFitter
from workers.services import Services

MARKER = "Zyxomarker-4711"
TASK = 987654321098
ANNOTATION = 335577991
ANNOTATOR = 550011
OTHERS = range(1, 7)


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
                outcome(TASK, MARKER),
                outcome(1, "kept"),
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
    jobs = Jobs(services.settings)
    jobs.look_ahead(PROJECT, after=TASK)
    with store.read() as session:
        jobs.predicted.note(projects.get(session, PROJECT), [TASK], are_next=True)


def outcome(task_id: int, said: str) -> TaskOutcome:
    result = [{"from_name": "label", "value": {"text": said}}]
    columns = {"value": 1.0, "live_value": 0.0, "result": result, "live_result": result}
    return TaskOutcome(project_id=PROJECT, number=2, from_name="label", task_id=task_id, **columns)


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
            if any(word.encode() in key + b" " + _content(redis, key) for word in words)
        ]


def _content(redis: Redis, key: bytes) -> bytes:
    """What Redis writes to its files; of sorted sets the members, since numbers have no digits there."""
    if redis.type(key) == b"zset":
        members: list[bytes] = redis.zrange(key, 0, -1)  # type: ignore[assignment]
        return b" ".join(members)
    dumped: bytes = redis.dump(key) or b""  # type: ignore[assignment]
    return dumped


def traces(services: Services, *words: str) -> list[Any]:
    found: list[Any] = rows_with(services.store, *words)
    found += files_with(services.settings.data_dir, *words)
    return found + keys_with(services.settings, *words)
