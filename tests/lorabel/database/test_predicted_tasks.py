"""What the look-ahead has predicted, in both versions of Redis."""

from typing import Any

import pytest

from lorabel.database import predicted_tasks
from lorabel.database.forgotten_jobs import remove_jobs
from lorabel.database.jobs import Jobs
from lorabel.database.tables import Project
from lorabel.settings import Settings
from tests.lorabel.database.test_jobs import jobs as jobs

HIGH = 987_654_321_098


def project(project_id: int, **changed: Any) -> Project:
    columns = {"label_config": "<View/>", "live_number": 0, "extra_params": None, "instructions": None}
    return Project(id=project_id, **{**columns, **changed})


def settings_of(jobs: Jobs) -> Settings:
    return Settings(redis_url=f"unix://{jobs.redis.connection_pool.connection_kwargs['path']}")


def test_tasks_above_one_are_counted_and_those_that_were_noted_are_known(jobs: Jobs) -> None:
    predicted = jobs.predicted
    assert predicted.count_after(project(1), 0) == 0 and predicted.known(project(1), [1, 2]) == frozenset()
    predicted.note(project(1), [3, 1, 2], are_next=True)
    predicted.note(project(1), [HIGH, 3], are_next=True)
    counts = {after: predicted.count_after(project(1), after) for after in (0, 1, 2, 3, HIGH - 1, HIGH)}
    assert counts == {0: 4, 1: 3, 2: 2, 3: 1, HIGH - 1: 1, HIGH: 0}
    assert predicted.known(project(1), [0, 1, 3, HIGH, HIGH + 1]) == {1, 3, HIGH}
    assert predicted.known(project(1), []) == frozenset()
    assert predicted.count_after(project(12), 0) == 0, "another project"


@pytest.mark.parametrize(
    "changed",
    [
        {"label_config": "<View> </View>"},
        {"live_number": 2},
        {"extra_params": {"instruction": "Say it"}},
        {"instructions": {"kept": {"text": "Say it"}}},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_of_another_state_of_the_project_nothing_is_known(jobs: Jobs, changed: dict[str, Any]) -> None:
    jobs.predicted.note(project(1), [1, 2], are_next=True)
    assert jobs.predicted.count_after(project(1, **changed), 0) == 0
    jobs.predicted.note(project(1, **changed), [7], are_next=True)
    assert jobs.predicted.known(project(1, **changed), [1, 2, 7]) == {7}
    assert jobs.predicted.known(project(1, head_number=4, rules={"number": 3}), [1, 2, 7]) == {1, 2}


def test_it_takes_little_of_the_memory_of_redis_and_ends_by_itself(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    for first in range(HIGH, HIGH + 3 * predicted_tasks.MOST_KEPT, 500):
        jobs.predicted.note(project(1), range(first, first + 500), are_next=True)
    (key,) = jobs.redis.keys("lorabel:*")  # type: ignore[misc]
    assert jobs.predicted.count_after(project(1), 0) == predicted_tasks.MOST_KEPT
    assert jobs.predicted.count_after(project(1), HIGH + 2 * predicted_tasks.MOST_KEPT) > 1000, "the highest ids"
    assert jobs.redis.memory_usage(key, samples=0) < 150_000  # type: ignore[operator]
    assert 0 < jobs.redis.ttl(key) <= predicted_tasks.KEPT_S  # type: ignore[operator]
    monkeypatch.setattr(predicted_tasks, "KEPT_S", 0)
    jobs.predicted.note(project(1), [1], are_next=True)
    assert jobs.redis.keys("lorabel:*") == []


@pytest.mark.parametrize("is_all", [True, False])
def test_it_is_forgotten_with_the_jobs_of_its_project(jobs: Jobs, is_all: bool) -> None:
    """Also where only a task is forgotten."""
    for number in (1, 12):
        for live_number in (0, 1):
            jobs.predicted.note(project(number, live_number=live_number), [HIGH], are_next=True)
    assert remove_jobs(jobs, 1, is_all=is_all) == 2
    assert [jobs.predicted.count_after(project(number), 0) for number in (1, 12)] == [0, 1]
    assert len(jobs.redis.keys("*")) == 2, "of the other project"  # type: ignore[arg-type]


def test_no_job_is_added_while_enough_tasks_are_predicted(jobs: Jobs) -> None:
    """Enough is more than half of AHEAD_TASKS, 8."""
    row = project(1)
    jobs.predicted.note(row, range(2, 10), are_next=True)
    waiting: list[int] = []
    for after in (1, 4, 5):
        new_process = Jobs(settings_of(jobs))
        assert new_process.look_ahead(1, after=after, project=row)
        waiting.append(jobs.redis.llen("rq:queue:lookahead"))  # type: ignore[arg-type]
        new_process.redis.close()
    assert waiting == [0, 0, 1], "4 tasks after task 5 are too few"
