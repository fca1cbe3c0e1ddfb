"""Heads of a project with a privacy budget: when they are fitted, what is spent, and what happens when it is."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

import pytest

from lorabel.database import forgetting, privacy_ledger
from lorabel.database.forgetting import Subject
from lorabel.database.store import Store
from lorabel.settings import Settings
from tests.backend.fake_model_server import FakeModelServer
from tests.workers.events import PROJECT
from tests.workers.test_head_fitting import COLOURS, fit, head_file, is_due, submitted
from tests.workers.test_requeue_sweep import RecordedJobs
from workers import private_heads
from workers.services import Services

pytestmark = pytest.mark.slow

BUDGET = 8.0


@pytest.fixture
def services(settings: Settings, store: Store, model_server: FakeModelServer) -> Iterator[Services]:
    """With so large an epsilon that 64 tasks are enough to learn something."""
    changed = {"model_server_url": model_server.url, "dp_epsilon": BUDGET, "dp_releases": 1}
    real = Services.open(settings.model_copy(update=changed))
    yield replace(real, jobs=cast(Any, RecordedJobs()))
    real.close()


@pytest.fixture(autouse=True)
def few_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private_heads, "FIRST_TASKS", 40)
    monkeypatch.setattr(private_heads, "GROWTH", 1.25)


def annotate(services: Services, first: int, last: int) -> None:
    fit(services, *(submitted(number, COLOURS[number % 2]) for number in range(first, last + 1)))


def spent(services: Services) -> privacy_ledger.Spent | None:
    with services.store.read() as session:
        return privacy_ledger.spent(session, PROJECT)


def test_a_head_is_fitted_from_the_first_tasks_and_then_left_until_there_are_many_more(services: Services) -> None:
    annotate(services, 1, 39)
    assert head_file(services) is None and spent(services) is None and not is_due(services)
    annotate(services, 40, 40)
    head = head_file(services)
    assert head is not None
    first = spent(services)
    assert first is not None and first.heads == 1 and 0.9 * BUDGET < first.epsilon <= BUDGET
    annotate(services, 41, 49)
    assert head_file(services) == head and spent(services) == first and not is_due(services)


def test_nothing_more_is_fitted_once_the_budget_is_spent(
    services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    annotate(services, 1, 40)
    head, before = head_file(services), spent(services)
    annotate(services, 41, 60)
    assert head_file(services) == head and spent(services) == before
    assert before is not None and not before.has_rest
    assert f"the privacy budget of project {PROJECT} is spent: epsilon" in caplog.text
    assert "a larger DP_EPSILON would allow more" in caplog.text


def test_what_was_spent_stays_spent_when_a_task_is_forgotten_and_goes_with_the_project(services: Services) -> None:
    annotate(services, 1, 40)
    before = spent(services)
    forgetting.forget(services.store, PROJECT, Subject(task_id=7))
    assert head_file(services) is None
    assert spent(services) == before
    forgetting.forget(services.store, PROJECT, Subject())
    assert spent(services) is None


def test_two_fits_have_different_noise(services: Services) -> None:
    """Noise that is the same each time could be subtracted."""
    services = replace(services, settings=services.settings.model_copy(update={"dp_releases": 2}))
    annotate(services, 1, 40)
    first = head_file(services)
    annotate(services, 41, 50)
    assert first is not None and head_file(services) not in (None, first)
    after = spent(services)
    assert after is not None and after.heads == 2
