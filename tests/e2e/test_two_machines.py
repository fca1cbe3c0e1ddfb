"""Two training workers on two machines (network namespaces), with one PostgreSQL and one Redis between them."""

import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
import rq
from redis import Redis
from sqlalchemy import select

from lorabel.database import projects, training_runs
from lorabel.database.jobs import Jobs
from lorabel.database.store import Store
from lorabel.database.tables import Annotation, ModelVersion, RunState, TrainingRun, VersionState
from lorabel.demo import MODEL_FOLDER
from lorabel.settings import Settings
from tests.e2e.label_studio_server import kill_group
from tests.e2e.lorabel_processes import bare_environment
from tests.e2e.processes import wait_until
from tests.machines import NETWORK, Machine, NotPermittedError, machine
from tests.servers import MissingServerError, postgres_server, redis_server
from tests.skipped import skip_or_fail
from tests.workers.events import START
from tests.workers.pictures import GRADES, LABEL_CONFIG, data_url, pictures, result

pytestmark = pytest.mark.scale

PROJECTS = range(1, 7)
TIMEOUT_S = 240.0
# Runs with many steps that change nothing, so that a machine can be cut off during a run.
TRAINING = {
    "TRAIN_AFTER_ANNOTATIONS": "100000",
    "TRAIN_AFTER_SECONDS": "100000",
    "TRAIN_STEPS": "60",
    "TRAIN_PATIENCE": "60",
    "LEARNING_RATE": "1e-9",
    "LORA_TOWERS": "text",
    "RUN_LEASE_SECONDS": "6",
}


@dataclass(frozen=True)
class Worker:
    machine: Machine
    process: "subprocess.Popen[bytes]"
    log: Path

    def versions(self) -> set[str]:
        """The versions that this worker has judged, by its log. A version that changes nothing is rejected."""
        return set(re.findall(r"(p\d+\.v\d+) is (?:live|rejected)", self.log.read_text(errors="replace")))

    def has_logged(self, words: str) -> bool:
        return words in self.log.read_text(errors="replace")


@dataclass(frozen=True)
class Site:
    settings: Settings
    store: Store
    workers: tuple[Worker, Worker]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    with ExitStack() as stack:
        try:
            machines = [stack.enter_context(machine(number)) for number in (1, 2)]
        except NotPermittedError as error:
            pytest.skip(f"no network namespaces here: {error}")
        hosts = [namespace.host for namespace in machines]
        try:
            postgres = stack.enter_context(postgres_server(hosts, NETWORK))
            redis = stack.enter_context(redis_server(addresses=hosts))
        except MissingServerError as error:
            skip_or_fail(str(error))

        def start(name: str, queue: str, host: str, prefix: list[str]) -> tuple["subprocess.Popen[bytes]", Path]:
            urls = {"DATABASE_URL": postgres.url(host=host), "REDIS_URL": redis.url(host=host)}
            process = _start([*prefix, sys.executable, "-m", "workers", queue], urls, folder, name)
            stack.callback(kill_group, process)
            return process, folder / f"{name}.log"

        settings = Settings(data_dir=folder, database_url=postgres.url(), redis_url=redis.url())
        store = Store.open(settings)
        store.migrate()
        stack.callback(store.close)
        start("light", "light", "127.0.0.1", [])
        first, second = (
            Worker(namespace, *start(namespace.name, "train", namespace.host, namespace.command()))
            for namespace in machines
        )
        for worker in (first, second):
            wait_until(
                lambda worker=worker: worker.has_logged("worker of queue train"), TIMEOUT_S, "the worker runs"
            )
        yield Site(settings, store, (first, second))


def _start(argv: list[str], urls: Mapping[str, str], folder: Path, name: str) -> "subprocess.Popen[bytes]":
    environment = {
        **bare_environment(),
        **TRAINING,
        **urls,
        "DATA_DIR": str(folder),
        "DEVICE": "cpu",
        "MODEL_DUAL_ENCODER": f"local-dir:{MODEL_FOLDER}",
        # No model server runs. Preloading an adapter then fails, which does not fail the run.
        "MODEL_SERVER_URL": "http://127.0.0.1:9",
    }
    with (folder / f"{name}.log").open("wb") as out:
        return subprocess.Popen(
            argv, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
        )


def ask_for_runs(site: Site, numbers: range) -> list[int]:
    """Make projects with 20 annotations each and request a run for each; returns the ids of the runs."""
    for number in numbers:
        projects.upsert(site.store, number, label_config=LABEL_CONFIG)
        with site.store.write() as session:
            for i, picture in enumerate(pictures(20), start=1):
                session.add(
                    Annotation(
                        id=1000 * number + i,
                        project_id=number,
                        task_id=1000 * number + i,
                        task_data={"image": data_url(picture)},
                        result=result(GRADES[picture.fill]),
                        updated_at=START + timedelta(seconds=i),
                        times_applied=1,
                    )
                )
    runs = [training_runs.request(site.store, number, "test") for number in numbers]
    jobs = Jobs(site.settings)
    assert all(jobs.train(run.id) for run in runs)
    return [run.id for run in runs]


def states(site: Site, ids: list[int]) -> list[tuple[str, int]]:
    """State and attempt of each run."""
    with site.store.read() as session:
        runs = {run.id: run for run in session.scalars(select(TrainingRun).where(TrainingRun.id.in_(ids)))}
        return [(runs[run_id].state, runs[run_id].attempt) for run_id in ids]


def judged_versions(site: Site, numbers: range) -> list[str]:
    with site.store.read() as session:
        rows = session.scalars(select(ModelVersion).where(ModelVersion.project_id.in_(numbers))).all()
        assert all(row.state in (VersionState.LIVE, VersionState.REJECTED) for row in rows)
        return sorted(row.name for row in rows)


def test_the_machines_share_only_cables_and_a_folder(site: Site) -> None:
    first, second = (worker.machine for worker in site.workers)
    port = str(site.settings.database_url).rpartition(":")[2].partition("/")[0]
    program = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 2)"

    def reaches(address: str) -> bool:
        argv = first.command(sys.executable, "-c", program, address, port)
        return subprocess.run(argv, capture_output=True).returncode == 0

    assert reaches(first.host)
    assert not reaches("127.0.0.1") and not reaches(second.host)


def test_the_workers_share_the_runs_of_several_projects_and_do_each_run_once(site: Site) -> None:
    ids = ask_for_runs(site, PROJECTS)
    finished = [(RunState.FINISHED, 1)] * len(ids)
    wait_until(lambda: states(site, ids) == finished, TIMEOUT_S, "every run is finished in its first attempt")
    first, second = (worker.versions() for worker in site.workers)
    assert first and second, "both workers have done runs"
    assert not first & second, "no run was done twice"
    assert sorted(first | second) == judged_versions(site, PROJECTS) == [f"p{number}.v1" for number in PROJECTS]
    folders = {folder.name for folder in site.settings.adapters_dir.iterdir()}
    assert folders == first | second


def test_the_run_of_a_machine_that_is_cut_off_is_done_by_the_other_machine_only(site: Site) -> None:
    """When the cable is plugged in again, the first worker drops its result and takes other runs."""
    number = range(20, 21)
    (run,) = ask_for_runs(site, number)
    wait_until(lambda: states(site, [run]) == [(RunState.RUNNING, 1)], TIMEOUT_S, "the run is running")
    cut_off, other = _owner_and_other(site, run)
    cut_off.machine.unplug()
    try:
        wait_until(
            lambda: states(site, [run]) == [(RunState.FINISHED, 2)],
            TIMEOUT_S,
            "the other worker has finished the run",
        )
    finally:
        cut_off.machine.plug_in()
    assert "p20.v1" in other.versions()
    wait_until(
        lambda: cut_off.has_logged(f"run {run} is no longer ours"),
        TIMEOUT_S,
        "the first worker has dropped its result",
    )
    assert judged_versions(site, number) == ["p20.v1"]
    assert states(site, [run]) == [(RunState.FINISHED, 2)]
    other.process.terminate()
    (following,) = ask_for_runs(site, range(21, 22))
    wait_until(
        lambda: states(site, [following])[0][0] == RunState.FINISHED,
        TIMEOUT_S,
        "the first worker does the next run",
    )
    assert "p21.v1" in cut_off.versions()


def _owner_and_other(site: Site, run: int) -> tuple[Worker, Worker]:
    """The worker that does the run, and the other one. Process ids are the same in all network namespaces."""
    with Redis.from_url(site.settings.redis) as redis:
        busy = [entry.pid for entry in rq.Worker.all(connection=redis) if entry.get_current_job_id()]
    first, second = site.workers
    assert busy in ([first.process.pid], [second.process.pid]), f"run {run} belongs to the workers {busy}"
    return (first, second) if busy == [first.process.pid] else (second, first)
