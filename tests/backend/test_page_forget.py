"""The page that forgets, while what would be deleted is found out; tests/workers/test_forget_job.py deletes."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from time import monotonic, sleep

import pytest
from flask.testing import FlaskClient

from backend.forgetting import Plan
from backend.pages import forget, forget_plans
from backend.pages.forget_plans import ForgetPlans
from backend.services import Services
from lorabel.database.forgetting import Forgotten
from lorabel.database.forgotten_events import Subject
from lorabel.errors import LorabelError, NotFoundError
from tests.backend import page_history
from tests.backend.test_pages import P1, get, text_of

TASK = Subject(task_id=1054)


class Maker:
    """Makes plans that are ready when the test says so, and counts them."""

    def __init__(self) -> None:
        self.is_ready, self.has_ended, self.count = Event(), Event(), 0
        self.is_failing = False

    def __call__(self, project_id: int, subject: Subject, is_retraining: bool) -> Plan:
        self.count += 1
        assert self.is_ready.wait(30)
        if self.is_failing:
            raise LorabelError("the model server is away")
        if project_id == 9:
            raise NotFoundError("no such project")
        forgotten = Forgotten()
        forgotten.rows["annotation"] = self.count
        self.has_ended.set()
        return Plan(subject, is_retraining, forgotten, [], "")


@pytest.fixture
def maker() -> Maker:
    return Maker()


@pytest.fixture
def plans(maker: Maker) -> Iterator[ForgetPlans]:
    plans = ForgetPlans(maker)
    yield plans
    maker.is_ready.set()
    plans.close()


def get_plan(plans: ForgetPlans, project_id: int = 1, wait_s: float = 0.0) -> Plan | None:
    return plans.get(project_id, TASK, is_retraining=False, wait_s=wait_s)


def test_a_plan_is_made_once_for_all_who_wait_and_anew_for_who_comes_later(
    plans: ForgetPlans, maker: Maker
) -> None:
    assert [get_plan(plans), get_plan(plans), get_plan(plans, wait_s=0.05)] == [None] * 3
    maker.is_ready.set()
    plan = get_plan(plans, wait_s=30)
    assert plan is not None and plan.rows == {"annotation": 1}
    again = get_plan(plans, wait_s=30)
    assert again is not None and again.rows == {"annotation": 2}


def test_a_plan_that_nobody_has_fetched_is_not_told_later(
    plans: ForgetPlans, maker: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forget_plans, "FRESH_S", 0.0)
    assert get_plan(plans) is None
    maker.is_ready.set()
    assert maker.has_ended.wait(30)
    sleep(0.05)
    plan = get_plan(plans, wait_s=30)
    assert plan is not None and plan.rows == {"annotation": 2}


def test_why_no_plan_can_be_made_is_raised_each_time(plans: ForgetPlans, maker: Maker) -> None:
    maker.is_ready.set()
    for _ in range(2):
        with pytest.raises(NotFoundError):
            get_plan(plans, 9, wait_s=30)


def test_why_no_plan_can_be_made_is_told_on_the_page(
    client: FlaskClient, services: Services, plans: ForgetPlans, maker: Maker
) -> None:
    """Before, the event answered with an error, after which a browser asks no more, and the page waited."""
    page_history.write(services.store)
    maker.is_failing = True
    maker.is_ready.set()
    object.__setattr__(services, "forget_plans", plans)
    told = get(client, f"{P1}/forget/events?kind=task&id=1054")
    assert "It cannot be found out: the model server is away" in text_of(told)


def test_no_more_than_a_few_wait_at_a_time(plans: ForgetPlans, maker: Maker) -> None:
    with ThreadPoolExecutor(forget_plans.MOST_WAITING) as others:
        waiting = [others.submit(get_plan, plans, 1, 30) for _ in range(forget_plans.MOST_WAITING)]
        while plans._waiting._value:
            sleep(0.001)
        began = monotonic()
        assert get_plan(plans, wait_s=30) is None and monotonic() - began < 10
        maker.is_ready.set()
        assert all(plan.result(30) is not None for plan in waiting)


def test_a_run_that_would_be_ended_is_nothing_of_the_task() -> None:
    forgotten = Forgotten(active_runs=1)
    forgotten.rows["training_run"] = 1
    assert Plan(TASK, False, forgotten, [], "").is_empty
    assert not Plan(Subject(), False, forgotten, [], "").is_empty, "a run of a project that goes"
    forgotten.rows["training_run"] = 2
    assert not Plan(TASK, False, forgotten, [], "").is_empty
    assert Plan(Subject(), False, Forgotten(), [], "").is_empty


def test_the_page_comes_at_once_and_the_plan_follows_as_an_event(
    client: FlaskClient,
    services: Services,
    maker: Maker,
    plans: ForgetPlans,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(forget, "EVENT_WAIT_S", 0.05)
    page_history.write(services.store)
    object.__setattr__(services, "forget_plans", plans)
    address = f"{P1}/forget?kind=task&id=1054"
    html = get(client, address)
    assert "What is kept of task 1054?" in text_of(html)
    assert 'data-events="/ui/projects/1/forget/events?kind=task&amp;id=1054"' in html
    assert "<button" not in html.partition("<main")[2]
    events = f"{P1}/forget/events?kind=task&id=1054"
    assert get(client, events) == "retry: 2000\n\n"
    maker.is_ready.set()
    deadline = monotonic() + 30
    while monotonic() < deadline and "data:" not in (told := get(client, events)):
        sleep(0.01)
    assert "Delete all of task 1054 for good?" in text_of(told)
    number = told.partition("id: ")[2].split()[0]
    assert client.get(events, headers={"Last-Event-ID": number}).status_code == 204
