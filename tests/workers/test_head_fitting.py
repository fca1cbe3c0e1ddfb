"""Heads are a function of the annotations, whatever comes between: order, workers, kills, a lost Redis."""

import random
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from sqlalchemy.exc import OperationalError

from lorabel.database import project_heads, projects, task_features
from lorabel.database.adapter_folders import AdapterFolders, heads_folder
from lorabel.database.store import Store
from lorabel.database.tables import Project
from lorabel.inference.prediction import ProjectModel
from lorabel.settings import Settings
from tests.backend import fake_model_server
from tests.backend.fake_model_server import FakeModelServer
from tests.workers.events import PROJECT, annotation, deletion, put, task_deletion
from tests.workers.test_requeue_sweep import RecordedJobs
from workers import feature_collection, head_fitting, requeue_sweep
from workers.collect import apply_pending
from workers.head_fitting import HeadFitter, fit_forever
from workers.services import Services

WAIT_S = 10.0
COLOURS = ("red", "blue")


@pytest.fixture
def services(settings: Settings, store: Store, model_server: FakeModelServer) -> Iterator[Services]:
    real = Services.open(settings.model_copy(update={"model_server_url": model_server.url}))
    yield replace(real, jobs=cast(Any, RecordedJobs()))
    real.close()


def submitted(number: int, label: str, second: int = 0, **changed: Any) -> dict[str, Any]:
    """The event of annotation `number` of task `number`, whose picture shows a colour."""
    body = annotation(number, number, label, second, **changed)
    body["task"]["data"] = {"image": f"http://pictures.test/{COLOURS[number % 2]}{number}.png"}
    return body


def updated(number: int, label: str, second: int) -> dict[str, Any]:
    return submitted(number, label, second, action="ANNOTATION_UPDATED")


# By the folder of the test: a worker keeps what it knows from one fit to the next.
FITTERS: dict[Path, HeadFitter] = {}


def fitter_of(services: Services) -> HeadFitter:
    return FITTERS.setdefault(services.settings.data_dir, HeadFitter(services))


def fit(services: Services, *bodies: dict[str, Any]) -> None:
    """Apply events, and fit until nothing is due."""
    put(services.store, *bodies)
    apply_pending(services.store)
    fit_all(fitter_of(services))


def fit_all(fitter: HeadFitter) -> int:
    """Fit as `fit_forever` does, until it would wait for an event. Returns how many answers it waited for."""
    answers, wanted = 0, fitter.services.heads_wanted
    wanted.set()
    while wanted.is_set():
        wanted.clear()
        if fitter.fit_due():
            fitter.requests.join()
            answers += wanted.is_set()
    return answers


def project(services: Services, project_id: int = PROJECT) -> Project:
    with services.store.read() as session:
        return projects.get(session, project_id)


def head_file(services: Services) -> bytes | None:
    """The head that answers for the control tag; None if none does."""
    with services.store.read() as session:
        found = projects.get(session, PROJECT)
        model = ProjectModel.of(session, found, services.settings)
    if "label" not in model.heads:
        return None
    return services.adapter_folders.read_head(model.heads["label"].name)


def is_due(services: Services) -> bool:
    with services.store.read() as session:
        return PROJECT in project_heads.due(session)


def with_config(body: dict[str, Any]) -> dict[str, Any]:
    """The recordings of deletions are from a time when the project had another label config."""
    return body | {"project": submitted(1, "red")["project"]}


HISTORY = [
    submitted(1, "red"),
    submitted(2, "blue"),
    updated(2, "red", 3),
    submitted(3, "red"),
    submitted(4, "blue"),
    submitted(5, "blue"),
    submitted(6, "blue"),
    with_config(deletion(5)),
    with_config(task_deletion(6)),
]
REMAINING = [submitted(1, "red"), updated(2, "red", 3), submitted(3, "red"), submitted(4, "blue")]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The head that is fitted at once on what remains of HISTORY."""
    folder = tmp_path_factory.mktemp("expected")
    with fake_model_server.running() as server:
        real = Services.open(
            Settings(data_dir=folder, model_server_url=server.url, redis_url=f"unix://{folder}/no")
        )
        real.store.migrate()
        fit(real, *REMAINING)
        file = head_file(real)
        real.close()
    assert file is not None
    return file


@pytest.mark.parametrize("seed", range(6))
def test_events_in_any_order_with_fits_in_between_give_the_same_head(
    services: Services, expected: bytes, seed: int
) -> None:
    generator = random.Random(seed)
    events = HISTORY * 2
    generator.shuffle(events)
    while events:
        count = generator.randint(1, 4)
        fit(services, *events[:count])
        events = events[count:]
    assert head_file(services) == expected


def test_without_annotations_the_base_model_answers_alone(services: Services) -> None:
    projects.upsert(services.store, PROJECT, label_config=submitted(1, "red")["project"]["label_config"])
    fit(services)
    assert head_file(services) is None and project(services).served_version == "p1.v0"
    fit(services, submitted(1, "red"), submitted(2, "blue"))
    assert head_file(services) is not None and project(services).served_version == "p1.v0.h1"
    fit(services, deletion(1), deletion(2))
    assert head_file(services) is None and project(services).served_version == "p1.v0"


def test_annotations_of_a_single_class_change_nothing(services: Services) -> None:
    fit(services, submitted(1, "red"), submitted(2, "red"))
    assert head_file(services) is None and not is_due(services)


def test_a_head_that_comes_out_the_same_keeps_its_number(services: Services) -> None:
    fit(services, *REMAINING)
    before = project(services).served_version
    fit(services, updated(1, "red", 9), submitted(9, "blue"), deletion(9))
    assert project(services).served_version == before and not is_due(services)


def test_every_other_head_has_a_new_number_also_after_there_was_none(services: Services) -> None:
    versions = []
    for events in (REMAINING, [deletion(1), deletion(2), deletion(3)], [submitted(11, "red")], [deletion(4)]):
        fit(services, *events)
        versions.append(project(services).served_version)
    assert versions == ["p1.v0.h1", "p1.v0", "p1.v0.h2", "p1.v0"]


def test_two_workers_at_once_store_one_head(services: Services, expected: bytes) -> None:
    put(services.store, *HISTORY)

    def work(_: int) -> None:
        apply_pending(services.store)
        fit_all(HeadFitter(services))

    with ThreadPoolExecutor(4) as workers:
        list(workers.map(work, range(8)))
    fit(services)
    assert head_file(services) == expected and not is_due(services)


def test_a_fit_that_was_overtaken_is_thrown_away(
    services: Services, expected: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another worker applies and fits the rest while this one computes, as on SQLite, which keeps none away."""
    monkeypatch.setattr(services.store, "claim", lambda *_: nullcontext(True))
    real, calls = head_fitting.fit_head, iter([True])

    def overtaken(examples: Sequence[Any], space: str) -> Any:
        if next(calls, False):
            put(services.store, *HISTORY)
            apply_pending(services.store)
            fit_all(HeadFitter(services))
        return real(examples, space)

    monkeypatch.setattr(head_fitting, "fit_head", overtaken)
    fit(services, submitted(1, "red"), submitted(8, "blue"), submitted(7, "red"))
    assert not is_due(services), "the newer fit stands"
    fit(services, deletion(8), deletion(7))
    assert head_file(services) == expected


def test_a_kill_after_the_folder_was_written_leaves_the_project_due(
    services: Services, expected: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = AdapterFolders.write

    def killed(*arguments: Any) -> None:
        write(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(AdapterFolders, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            fit(services, *HISTORY)
    assert head_file(services) is None and is_due(services)
    fit(services)
    assert head_file(services) == expected and project(services).head_number == 2


def test_the_sweep_has_heads_fitted_when_redis_lost_the_jobs(services: Services, expected: bytes) -> None:
    stop = threading.Event()
    thread = threading.Thread(target=fit_forever, args=(services, stop), daemon=True)
    thread.start()
    put(services.store, *HISTORY)
    requeue_sweep.sweep(services)
    for _ in range(int(WAIT_S * 100)):
        if not is_due(services):
            break
        stop.wait(0.01)
    stop.set()
    services.heads_wanted.set()
    thread.join(WAIT_S)
    assert head_file(services) == expected


def test_features_wait_for_a_model_server_that_is_down(
    services: Services, model_server: FakeModelServer, expected: bytes
) -> None:
    model_server.status = 500
    fit(services, *HISTORY)
    assert head_file(services) is None and is_due(services)
    model_server.status = 200
    fit(services)
    assert head_file(services) == expected


def test_features_are_computed_once_for_each_task(services: Services, model_server: FakeModelServer) -> None:
    for events in (REMAINING, [submitted(11, "blue")], [updated(11, "red", 9)]):
        fit(services, *events)
    assert len(model_server.featured) == len(REMAINING) + 1


def test_many_features_are_computed_in_turns(
    services: Services, model_server: FakeModelServer, expected: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_collection, "MOST_ASKED", 2)
    put(services.store, *HISTORY)
    apply_pending(services.store)
    assert fit_all(fitter_of(services)) == 2 and head_file(services) == expected and not is_due(services)
    assert max(len(request.rows) for request in model_server.requests) == 2


def test_another_base_model_has_all_features_computed_anew(
    services: Services, model_server: FakeModelServer
) -> None:
    fit(services, *REMAINING)
    model_server.space = "fake two"
    fit(services, submitted(11, "blue"))
    assert len(model_server.featured) == 2 * len(REMAINING) + 1 and not is_due(services)


def test_under_a_new_label_config_no_head_answers_until_it_is_fitted_anew(services: Services) -> None:
    fit(services, *REMAINING)
    config = str(project(services).label_config)
    changed = config.replace('<Choice value="blue"/>', '<Choice value="blue"/><Choice value="green"/>')
    projects.upsert(services.store, PROJECT, label_config=changed)
    assert head_file(services) is None and project(services).served_version == "p1.v0"
    fit(services)
    assert head_file(services) is not None and project(services).served_version == "p1.v0.h2"


def test_a_database_that_fails_when_the_worker_starts_does_not_end_its_heads(
    services: Services, expected: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, failures = project_heads.list_all, iter([OperationalError("no", {}, Exception())])

    def fail_once(session: Any) -> Any:
        for error in failures:
            raise error
        return real(session)

    monkeypatch.setattr(project_heads, "list_all", fail_once)
    put(services.store, *HISTORY)
    stop = threading.Event()
    thread = threading.Thread(target=fit_forever, args=(services, stop), daemon=True)
    thread.start()
    for _ in range(int(WAIT_S * 10)):
        requeue_sweep.sweep(services)
        if not is_due(services):
            break
        stop.wait(0.1)
    stop.set()
    services.heads_wanted.set()
    thread.join(WAIT_S)
    assert head_file(services) == expected


def test_heads_whose_files_are_gone_are_fitted_again_when_the_worker_starts(
    services: Services, expected: bytes
) -> None:
    """A restored copy of the database names a folder that was removed since."""
    fit(services, *HISTORY)
    services.adapter_folders.remove(heads_folder(PROJECT, 1))
    stop = threading.Event()
    services.heads_wanted.set()
    thread = threading.Thread(target=fit_forever, args=(services, stop), daemon=True)
    thread.start()
    for _ in range(int(WAIT_S * 100)):
        if project(services).head_number == 2:
            break
        stop.wait(0.01)
    stop.set()
    services.heads_wanted.set()
    thread.join(WAIT_S)
    assert head_file(services) == expected


def test_old_folders_of_heads_are_removed_and_the_one_that_answers_stays(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head_fitting, "KEPT_S", 0.0)
    fit(services, *REMAINING)
    for number in range(10, 22):
        fit(services, submitted(number, "blue"))
    numbers = services.adapter_folders.head_numbers(PROJECT)
    assert numbers == list(range(6, 14)) and project(services).head_number == 13
    assert (services.adapter_folders.root / heads_folder(PROJECT, 13)).is_dir()


def test_deleted_tasks_and_projects_lose_their_features(services: Services) -> None:
    fit(services, *HISTORY)
    with services.store.read() as session:
        assert task_features.read(session, PROJECT, "label", range(10)).keys() == {1, 2, 3, 4}
    fit(services, {"action": "PROJECT_DELETED", "project": {"id": PROJECT}})
    with services.store.read() as session:
        assert task_features.read(session, PROJECT, "label", range(10)) == {}


def test_a_project_that_another_light_worker_is_fitting_is_left_to_it_and_fitted_afterwards(
    services: Services, store: Store
) -> None:
    """On SQLite, which has one light worker, nothing is claimed."""
    put(store, submitted(1, "red"), submitted(2, "blue"))
    apply_pending(store)
    fitter = HeadFitter(services)
    with store.claim(head_fitting.FITTING, PROJECT) as is_claimed:
        assert is_claimed
        fit_all(fitter)
        assert fitter.has_left_some is not store.is_sqlite
        assert is_due(services) is not store.is_sqlite
    fit_all(fitter)
    assert not fitter.has_left_some and not is_due(services) and head_file(services)


def test_a_project_that_is_annotated_during_its_fit_rests_before_the_next_and_the_others_do_not(
    services: Services, expected: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = head_fitting.fit_head, iter([True])

    def annotated_meanwhile(examples: Sequence[Any], space: str) -> Any:
        if next(calls, False):
            put(services.store, *HISTORY, deletion(8))
            apply_pending(services.store)
        return real(examples, space)

    monkeypatch.setattr(head_fitting, "fit_head", annotated_meanwhile)
    monkeypatch.setattr(head_fitting, "REST_S", 1.0)
    fitter, began_s = HeadFitter(services), time.monotonic()
    for project_id, events in ((PROJECT, [submitted(1, "red"), submitted(8, "blue")]), (PROJECT + 1, REMAINING)):
        put(services.store, *events, project_id=project_id)
        apply_pending(services.store)
        fit_all(fitter)
    if time.monotonic() < began_s + 1.0:
        assert fitter.has_left_some and is_due(services) and project(services).head_number == 1
    assert project(services, PROJECT + 1).head_number == 1
    time.sleep(1.0)
    fit_all(fitter)
    assert not fitter.has_left_some and not is_due(services) and head_file(services) == expected
