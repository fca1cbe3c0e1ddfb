import pytest

from lorabel.database import bulk_runs, leases, projects
from lorabel.database.store import Store
from lorabel.database.tables import BulkRun, RunState
from lorabel.errors import ConflictError, NotFoundError, RunLostError
from lorabel.settings import Settings


@pytest.fixture(autouse=True)
def connected(store: Store) -> None:
    for project_id in (1, 2):
        projects.remember(store, project_id, label_studio_url="http://label-studio.test", api_key="token")


@pytest.fixture
def brief(settings: Settings) -> Settings:
    """Every lease has ended."""
    return settings.model_copy(update={"run_lease_seconds": 0.0})


def claim(store: Store, run: BulkRun) -> BulkRun:
    claimed = leases.claim(store, BulkRun, run.id)
    assert claimed is not None
    return claimed


def state_of(store: Store, run: BulkRun) -> BulkRun:
    with store.read() as session:
        return bulk_runs.get(session, 1, run.id)


def test_a_run_that_waits_serves_every_request_whose_tasks_it_will_do(store: Store, settings: Settings) -> None:
    def ask(project_id: int = 1, **selection: object) -> int:
        return bulk_runs.request(store, settings, project_id, "x", **selection).id  # type: ignore[arg-type]

    some = ask(task_ids=[3, 1, 2])
    assert ask(task_ids=[2, 2, 3]) == some
    more = ask(task_ids=[3, 4])
    unlabeled = ask(only_unlabeled=True)
    assert len({some, more, unlabeled}) == 3
    assert ask(only_unlabeled=True) == unlabeled
    assert ask(task_ids=[7]) not in (some, more, unlabeled), "task 7 may be labeled"
    everything = ask()
    assert everything not in (some, more, unlabeled)
    assert ask(task_ids=[8]) == everything
    assert ask(project_id=2) != everything
    by_margin = ask(only_unlabeled=True, strategy="margin")
    assert by_margin not in (unlabeled, everything), "predictions are no order"
    assert ask(only_unlabeled=True, strategy="margin") == by_margin != ask(only_unlabeled=True, strategy="random")
    assert ask(only_unlabeled=True) == unlabeled


def test_a_run_that_is_on_may_have_passed_what_a_new_request_wants(store: Store, settings: Settings) -> None:
    first = bulk_runs.request(store, settings, 1, "x")
    claimed = claim(store, first)
    second = bulk_runs.request(store, settings, 1, "x")
    assert second.id != first.id
    assert leases.claim(store, BulkRun, second.id) is None, "one at a time per project"
    leases.report(store, claimed, cursor=5)
    bulk_runs.release(store, claimed)
    assert bulk_runs.request(store, settings, 1, "x").id == second.id


def test_projects_run_side_by_side(store: Store, settings: Settings) -> None:
    runs = [claim(store, bulk_runs.request(store, settings, project_id, "x")) for project_id in (1, 2)]
    assert [(run.project_id, run.state) for run in runs] == [(1, RunState.RUNNING), (2, RunState.RUNNING)]


def test_without_a_token_there_is_no_run(store: Store, settings: Settings) -> None:
    projects.remember(store, 3, hostname="http://label-studio.test", setup_token="legacy")
    with pytest.raises(ConflictError, match=r"project 3: .* `lorabel connect`"):
        bulk_runs.request(store, settings, 3, "x")
    with pytest.raises(NotFoundError, match="project 4 is not known here"):
        bulk_runs.request(store, settings, 4, "x")


def test_a_run_is_killed_as_often_as_it_gets_further_but_three_times_at_one_place(
    store: Store, settings: Settings, brief: Settings
) -> None:
    run = bulk_runs.request(store, settings, 1, "x")
    for page in range(1, 6):
        claimed = claim(store, run)
        leases.report(store, claimed, kills=0, cursor=page)
        bulk_runs.requeue_killed(store, settings)
        assert state_of(store, run).state == RunState.RUNNING, "its lease has not ended"
        bulk_runs.requeue_killed(store, brief)
        assert state_of(store, run).attempt == page + 1
        with pytest.raises(RunLostError):
            leases.report(store, claimed)
    for _ in range(2):
        claim(store, run)
        bulk_runs.requeue_killed(store, brief)
    ended = state_of(store, run)
    assert (ended.state, ended.error) == (RunState.FAILED, "the worker was killed 3 times after task 5")


@pytest.mark.parametrize("is_on", [True, False])
def test_a_cancelled_run_is_nobodys(store: Store, settings: Settings, is_on: bool) -> None:
    run = bulk_runs.request(store, settings, 1, "x")
    claimed = claim(store, run) if is_on else None
    assert bulk_runs.cancel(store, 1, run.id).state == RunState.CANCELLED
    if claimed is not None:
        with pytest.raises(RunLostError, match="it was cancelled, or its lease ended"):
            leases.report(store, claimed)
    assert leases.claim(store, BulkRun, run.id) is None
    assert bulk_runs.cancel(store, 1, run.id).state == RunState.CANCELLED


def test_what_has_ended_or_is_not_there_cannot_be_cancelled(store: Store, settings: Settings) -> None:
    run = bulk_runs.request(store, settings, 1, "x")
    claimed = claim(store, run)
    with store.write() as session:
        leases.finish(session, claimed, RunState.FINISHED)
    with pytest.raises(ConflictError, match=f"bulk run {run.id} of project 1 has finished already"):
        bulk_runs.cancel(store, 1, run.id)
    with pytest.raises(NotFoundError, match=f"project 2 has no bulk run {run.id}"):
        bulk_runs.cancel(store, 2, run.id)
