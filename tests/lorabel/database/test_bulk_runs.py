import pytest

from lorabel.database import bulk_runs, leases, projects
from lorabel.database.store import Store
from lorabel.database.tables import BulkRun, BulkRunKind, RunState
from lorabel.errors import ConflictError, NotFoundError, RunLostError
from lorabel.settings import Settings


@pytest.fixture(autouse=True)
def two_projects(store: Store) -> None:
    for project_id in (1, 2):
        projects.upsert(store, project_id)


@pytest.fixture
def expired_settings(settings: Settings) -> Settings:
    """Settings with which every lease has expired."""
    return settings.model_copy(update={"run_lease_seconds": 0.0})


def claim(store: Store, run: BulkRun) -> BulkRun:
    claimed = leases.claim(store, BulkRun, run.id)
    assert claimed is not None
    return claimed


def read(store: Store, run: BulkRun) -> BulkRun:
    with store.read() as session:
        return bulk_runs.get(session, 1, run.id)


def test_a_queued_run_serves_every_request_whose_tasks_it_will_do(store: Store) -> None:
    def request(project_id: int = 1, **selection: object) -> int:
        return bulk_runs.request(store, project_id, "x", **selection).id  # type: ignore[arg-type]

    three_tasks = request(task_ids=[3, 1, 2])
    assert request(task_ids=[2, 2, 3]) == three_tasks
    other_tasks = request(task_ids=[3, 4])
    unlabeled = request(only_unlabeled=True)
    assert len({three_tasks, other_tasks, unlabeled}) == 3
    assert request(only_unlabeled=True) == unlabeled
    assert request(task_ids=[7]) not in (three_tasks, other_tasks, unlabeled), "task 7 may be labeled"
    all_tasks = request()
    assert all_tasks not in (three_tasks, other_tasks, unlabeled)
    assert request(task_ids=[8]) == all_tasks
    assert request(project_id=2) != all_tasks
    order = {"kind": BulkRunKind.ORDER, "only_unlabeled": True}
    by_margin = request(**order, strategy="margin")
    assert by_margin not in (unlabeled, all_tasks), "a run that writes predictions does not order tasks"
    assert request(**order, strategy="margin") == by_margin
    assert request(**order, strategy="random") != by_margin
    label_errors = request(kind=BulkRunKind.LABEL_ERRORS)
    assert label_errors not in (unlabeled, all_tasks, by_margin), "it writes no predictions"
    assert request(kind=BulkRunKind.LABEL_ERRORS) == label_errors
    assert request(only_unlabeled=True) == unlabeled
    assert request() == all_tasks


def test_of_several_queued_runs_that_do_what_is_requested_the_oldest_is_returned(store: Store) -> None:
    unlabeled = bulk_runs.request(store, 1, "x", only_unlabeled=True).id
    bulk_runs.request(store, 1, "x")
    for state in (RunState.RUNNING, RunState.QUEUED):  # PostgreSQL lists a row that was changed after the others
        with store.write() as session:
            bulk_runs.get(session, 1, unlabeled).state = state
    assert bulk_runs.request(store, 1, "x", only_unlabeled=True).id == unlabeled


def test_a_new_request_gets_a_new_run_if_the_other_run_has_begun(store: Store) -> None:
    """A run that has begun may already be past a task of the new request."""
    first = bulk_runs.request(store, 1, "x")
    claimed = claim(store, first)
    second = bulk_runs.request(store, 1, "x")
    assert second.id != first.id
    assert leases.claim(store, BulkRun, second.id) is None, "one at a time per project"
    leases.report(store, claimed, cursor=5)
    bulk_runs.release(store, claimed)
    assert bulk_runs.request(store, 1, "x").id == second.id


def test_runs_of_two_projects_may_run_at_the_same_time(store: Store) -> None:
    runs = [claim(store, bulk_runs.request(store, project_id, "x")) for project_id in (1, 2)]
    assert [(run.project_id, run.state) for run in runs] == [(1, RunState.RUNNING), (2, RunState.RUNNING)]


def test_a_run_of_an_unknown_project_is_refused(store: Store) -> None:
    with pytest.raises(NotFoundError, match="project 4 is not known here"):
        bulk_runs.request(store, 4, "x")


def test_a_run_fails_after_three_kills_without_a_completed_page_between_them(
    store: Store, settings: Settings, expired_settings: Settings
) -> None:
    run = bulk_runs.request(store, 1, "x")
    for page in range(1, 6):
        claimed = claim(store, run)
        leases.report(store, claimed, kills=0, cursor=page)
        bulk_runs.requeue_killed(store, settings)
        assert read(store, run).state == RunState.RUNNING, "its lease has not expired"
        bulk_runs.requeue_killed(store, expired_settings)
        assert read(store, run).attempt == page + 1
        with pytest.raises(RunLostError):
            leases.report(store, claimed)
    for _ in range(2):
        claim(store, run)
        bulk_runs.requeue_killed(store, expired_settings)
    failed = read(store, run)
    assert (failed.state, failed.error) == (RunState.FAILED, "the worker was killed 3 times after task 5")


@pytest.mark.parametrize("is_running", [True, False])
def test_no_worker_has_or_gets_a_cancelled_run(store: Store, is_running: bool) -> None:
    run = bulk_runs.request(store, 1, "x")
    claimed = claim(store, run) if is_running else None
    assert bulk_runs.cancel(store, 1, run.id).state == RunState.CANCELLED
    if claimed is not None:
        with pytest.raises(RunLostError, match="it was cancelled, or its lease ended"):
            leases.report(store, claimed)
    assert leases.claim(store, BulkRun, run.id) is None
    assert bulk_runs.cancel(store, 1, run.id).state == RunState.CANCELLED


def test_a_finished_or_unknown_run_cannot_be_cancelled(store: Store) -> None:
    run = bulk_runs.request(store, 1, "x")
    claimed = claim(store, run)
    with store.write() as session:
        leases.finish(session, claimed, RunState.FINISHED)
    with pytest.raises(ConflictError, match=f"bulk run {run.id} of project 1 has finished already"):
        bulk_runs.cancel(store, 1, run.id)
    with pytest.raises(NotFoundError, match=f"project 2 has no bulk run {run.id}"):
        bulk_runs.cancel(store, 2, run.id)
