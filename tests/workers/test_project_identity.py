"""Label Studio's address has got another project 1: it was reset, or another Label Studio is there."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import select

from lorabel.database import bulk_runs, projects
from lorabel.database.project_keys import LabelStudioId, ProjectKey
from lorabel.database.store import Store
from lorabel.database.tables import Annotation, BulkRun, BulkRunKind
from lorabel.errors import LabelStudioError
from lorabel.label_studio.media_authorizations import Authorizations
from lorabel.search.searcher import Searcher
from tests.backend import requests
from tests.lorabel.fake_label_studio import PERSONAL_TOKEN, FakeLabelStudio
from tests.workers.conftest import add_tasks
from tests.workers.pictures import result
from workers.index_tasks import index_tasks
from workers.lookahead import predict_ahead
from workers.preannotate import preannotate
from workers.reconcile import reconcile
from workers.services import Services

REASON = "has another project 1 than project 1 here"
KEY = ProjectKey.parse("1.1795324321")
RESET = "2026-11-25T17:00:00.000001Z"


@pytest.fixture(autouse=True)
def known(services: Services, store: Store, label_studio: FakeLabelStudio) -> None:
    """Project 1 as it was created at the time that the API says."""
    projects.resolve(store, KEY)
    add_tasks(label_studio, "red", "blue")


def pages(label_studio: FakeLabelStudio) -> int:
    return label_studio.requests.count("/api/tasks/")


def test_nothing_of_another_project_is_read_before_a_run(
    services: Services, store: Store, label_studio: FakeLabelStudio
) -> None:
    with store.write() as session:
        session.add(Annotation(project_id=1, id=7, task_id=1, result=result("Grade A")))
    label_studio.created_at = RESET
    assert REASON in reconcile(services, 1)
    with store.read() as session:
        assert session.scalars(select(Annotation.is_deleted)).all() == [False]
    assert pages(label_studio) == 0


def test_a_clock_that_a_proxy_hides_does_not_stop_the_comparison(
    services: Services, label_studio: FakeLabelStudio
) -> None:
    label_studio.date = "yesterday"
    assert "compared with Label Studio: 0" in reconcile(services, 1)


@pytest.mark.parametrize(
    ("kind", "job"), [(BulkRunKind.PREDICTIONS, preannotate), (BulkRunKind.INDEX, index_tasks)]
)
def test_a_bulk_run_reads_and_writes_no_tasks_of_another_project(
    services: Services,
    store: Store,
    label_studio: FakeLabelStudio,
    kind: BulkRunKind,
    job: Callable[[int], None],
) -> None:
    label_studio.created_at = RESET
    run = bulk_runs.request(store, 1, "a test", kind=kind)
    job(run.id)
    with store.read() as session:
        failed = session.get_one(BulkRun, run.id)
    assert (failed.state, REASON in (failed.error or "")) == ("failed", True)
    assert (label_studio.import_sizes, pages(label_studio)) == ([], 0)


@pytest.mark.parametrize(
    "use",
    [
        lambda services, searcher: predict_ahead(services, 1, 0, None),
        lambda services, searcher: searcher.like_task(1, 1, 5),
    ],
    ids=["look-ahead", "search"],
)
def test_tasks_of_another_project_are_not_used(
    services: Services, label_studio: FakeLabelStudio, use: Callable[[Services, Searcher], Any]
) -> None:
    label_studio.created_at = RESET
    authorizations = Authorizations()
    searcher = Searcher(services.settings, services.store, services.model_client, authorizations)
    with pytest.raises(LabelStudioError, match=REASON):
        use(services, searcher)
    authorizations.close()
    assert pages(label_studio) == 0


def test_a_project_with_an_own_id_is_called_by_its_number_in_label_studio(
    services: Services, store: Store, label_studio: FakeLabelStudio
) -> None:
    label_studio.created_at = RESET
    key = ProjectKey(LabelStudioId(1), ProjectKey.parse("1.1795626000").created_at, url=label_studio.url)
    own_id = projects.resolve(store, key).id
    assert own_id != 1
    projects.upsert(store, own_id, label_config=requests.CONFIG, api_key=PERSONAL_TOKEN)
    assert "compared with Label Studio: 0" in reconcile(services, own_id)
    run = bulk_runs.request(store, own_id, "a test")
    preannotate(run.id)
    versions = {prediction["model_version"] for task in label_studio.tasks for prediction in task["predictions"]}
    assert versions == {f"p{own_id}.v0"}
    assert predict_ahead(services, own_id, 0, None) == 0  # both tasks have a prediction
