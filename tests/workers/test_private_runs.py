"""A private training run as the training worker does it: by a job in a real Redis, until the budget is spent."""

from collections.abc import Iterator
from typing import Any

import pytest
from flask.testing import FlaskClient
from redis import Redis

from backend.app import create_app
from backend.services import EXTENSION
from lorabel.database import privacy_ledger, projects, training_runs, versions
from lorabel.database.jobs import TRAIN
from lorabel.database.store import Store
from lorabel.database.tables import PrivacyRelease, RunState, TrainingRun
from lorabel.demo import MODEL_FOLDER
from lorabel.settings import Settings
from tests.servers import MissingServerError, redis_server
from tests.skipped import skip_or_fail
from tests.workers.pictures import LABEL_CONFIG
from tests.workers.test_finetune import PROJECT, annotate
from workers import privacy_accounting, worker
from workers.examples import is_held_out
from workers.services import Services

pytestmark = [pytest.mark.servers, pytest.mark.slow]

BUDGET, STEPS, TASKS = 8.0, 4, 40
# The bound holds for any orders; those with fractions take a second of CPU for each noise that is tried.
ORDERS = tuple(range(2, 64, 4))


@pytest.fixture(scope="module")
def running_redis() -> Iterator[str]:
    try:
        with redis_server() as server:
            yield server.url()
    except MissingServerError as error:
        skip_or_fail(str(error))


@pytest.fixture
def settings(settings: Settings, running_redis: str) -> Settings:
    """With a budget for one run. A training without noise would end after the first step that brings nothing."""
    with Redis.from_url(running_redis) as redis:
        redis.flushall()
    changed = {
        "redis_url": running_redis,
        "models": {"dual_encoder": f"local-dir:{MODEL_FOLDER}"},
        "precision": "float32",
        "model_server_url": "http://127.0.0.1:9",
        "evaluate_min_tasks": 5,
        "lora_towers": "text",
        "train_steps": STEPS,
        "train_batch": 8,
        "train_patience": 1,
        "dp_epsilon": BUDGET,
        "dp_releases": 1,
    }
    return settings.model_copy(update=changed)


@pytest.fixture
def services(settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Services]:
    services = Services.open(settings)
    monkeypatch.setattr(Services, "current", lambda: services)
    monkeypatch.setattr(privacy_accounting, "ORDERS", ORDERS)
    projects.upsert(store, PROJECT, label_config=LABEL_CONFIG)
    yield services
    services.close()


@pytest.fixture
def client(settings: Settings) -> Iterator[FlaskClient]:
    app = create_app(settings)
    yield app.test_client()
    app.extensions[EXTENSION].close()


def train(services: Services) -> TrainingRun:
    """Put a run on the queue, and have the worker of the queue do it."""
    run = training_runs.request(services.store, PROJECT, "test")
    assert services.jobs.train(run.id, run.attempt)
    with Redis.from_url(services.settings.redis) as redis:
        worker.make_worker(TRAIN, redis, worker.ThreadWorker).work(burst=True, logging_level="WARNING")
    with services.store.read() as session:
        return training_runs.get(session, PROJECT, run.id)


def releases(store: Store) -> list[PrivacyRelease]:
    with store.read() as session:
        return privacy_ledger.releases(session, PROJECT)


def shown(client: FlaskClient) -> dict[str, Any] | None:
    """What REST says was spent."""
    answer: dict[str, Any] = client.get(f"/api/v1/projects/{PROJECT}").get_json()
    privacy: dict[str, Any] | None = answer["privacy"]
    return privacy


def test_a_run_spends_the_budget_and_the_next_learns_nothing(
    services: Services, store: Store, client: FlaskClient
) -> None:
    assert shown(client) is None
    annotate(store, 1, TASKS)
    learned = sum(not is_held_out(number, 20) for number in range(1, TASKS + 1))
    run = train(services)
    assert (run.state, run.steps, run.losses["grade"][-1][0]) == (
        RunState.FINISHED,
        STEPS,
        STEPS,
    )
    (release,) = releases(store)
    assert (release.kind, release.from_name, release.tasks) == (privacy_ledger.ADAPTER, "grade", learned)
    assert (release.steps, release.sample_rate) == (STEPS, min(1.0, services.settings.train_batch / learned))
    assert release.noise_multiplier > 0 and 0.9 * BUDGET < release.epsilon <= BUDGET
    privacy = shown(client)
    assert privacy is not None
    assert privacy["epsilon"] == release.epsilon and privacy["budget"] == BUDGET
    assert (privacy["heads"], privacy["adapters"], privacy["has_rest"]) == (0, 1, False)
    assert run.version_number is not None, run.decision
    with store.read() as session:
        version = versions.get(session, PROJECT, run.version_number)
    assert version.metrics["privacy"] == {"epsilon": release.epsilon, "delta": 1e-5, "budget": BUDGET}
    page = client.get(f"/ui/projects/{PROJECT}").get_data(as_text=True)
    assert f"ε {release.epsilon:.2f}" in page and "1 training run;" in page
    assert "nothing more is learned, as the budget is spent" in page
    check_that_nothing_more_is_learned(services, client)


def check_that_nothing_more_is_learned(services: Services, client: FlaskClient) -> None:
    before, files = shown(client), adapter_files(services)
    annotate(services.store, TASKS + 1, TASKS)
    run = train(services)
    assert run.state == RunState.FINISHED and run.version_number is None
    assert f"the privacy budget of project {PROJECT} is spent: epsilon" in str(run.decision)
    assert f" of {BUDGET:g} after 1 releases" in str(run.decision)
    assert not run.losses, "no step was made"
    assert shown(client) == before and adapter_files(services) == files
    assert len(releases(services.store)) == 1


def adapter_files(services: Services) -> dict[str, bytes]:
    root = services.adapter_folders.root
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
