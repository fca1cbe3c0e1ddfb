"""REST routes of bulk runs, and the jobs that /predict enqueues: bulk runs and the look-ahead."""

from collections.abc import Iterator
from typing import Any

import pytest
from flask.testing import FlaskClient

from backend.services import Services
from lorabel.database import bulk_runs, label_error_reports, leases, projects
from lorabel.database.tables import BulkRun, Project, RunState
from lorabel.inference.messages import Priority
from tests.backend import requests
from tests.backend.fake_model_server import FakeModelServer
from tests.backend.test_predictions import choices, picture, results


class FakeJobs:
    """Stands in for the queues and records the jobs that were enqueued."""

    def __init__(self) -> None:
        self.carried_out: list[int] = []
        self.looked_ahead: list[tuple[int, int]] = []

    def carry_out(self, run: BulkRun) -> bool:
        self.carried_out.append(run.id)
        return True

    def look_ahead(self, project_id: int, *, after: int = 0, project: Project | None = None) -> bool:
        self.looked_ahead.append((project_id, after))
        return True


@pytest.fixture
def jobs(services: Services) -> Iterator[FakeJobs]:
    real, fake = services.jobs, FakeJobs()
    object.__setattr__(services, "jobs", fake)
    yield fake
    object.__setattr__(services, "jobs", real)


@pytest.fixture
def connected(services: Services) -> None:
    projects.upsert(
        services.store,
        1,
        label_config=requests.CONFIG,
        label_studio_url="http://label-studio.test",
        api_key="0123456789abcdef0123456789abcdef01234567",
    )


@pytest.mark.usefixtures("connected")
def test_an_order_is_a_bulk_run_with_a_strategy(client: FlaskClient, jobs: FakeJobs) -> None:
    answer = client.post("/api/v1/projects/1/order", json={"strategy": "diversity"})
    assert answer.status_code == 202
    assert (answer.json["strategy"], answer.json["only_unlabeled"]) == ("diversity", True)
    assert jobs.carried_out == [answer.json["id"]]
    refused = client.post("/api/v1/projects/1/order", json={"strategy": "alphabet"})
    assert refused.status_code == 400 and "strategy: Input should be 'auto'" in refused.json["error"]


@pytest.mark.usefixtures("connected")
def test_indexing_is_a_bulk_run_that_is_not_queued_twice(client: FlaskClient, jobs: FakeJobs) -> None:
    answer = client.post("/api/v1/projects/1/index")
    assert (answer.status_code, answer.json["kind"], answer.json["state"]) == (202, "index", "queued")
    assert client.post("/api/v1/projects/1/index").json == answer.json
    assert set(jobs.carried_out) == {answer.json["id"]}


def test_indexing_needs_a_project_with_a_token(client: FlaskClient) -> None:
    client.post("/setup", json=requests.setup())
    refused = client.post("/api/v1/projects/1/index")
    assert refused.status_code == 409 and "lorabel connect" in refused.json["error"]
    assert client.post("/api/v1/projects/9/index").status_code == 404


def test_label_errors_are_looked_for_by_a_run_and_a_request_for_them_computes_nothing(
    client: FlaskClient, services: Services, jobs: FakeJobs, model_server: FakeModelServer
) -> None:
    """Label Studio needs no token for it."""
    client.post("/setup", json=requests.setup())
    assert client.get("/api/v1/projects/1/label-errors").json == {"run": None, "report": None}
    answer = client.post("/api/v1/projects/1/label-errors")
    assert (answer.status_code, answer.json["kind"], answer.json["state"]) == (202, "label_errors", "queued")
    assert client.post("/api/v1/projects/1/label-errors").json == answer.json, "it is not queued twice"
    assert jobs.carried_out == [answer.json["id"]] * 2
    run = leases.claim(services.store, BulkRun, answer.json["id"])
    assert run is not None
    leases.report(services.store, run, version_number=0, total=25, done=10)
    shown = client.get("/api/v1/projects/1/label-errors").json
    assert (shown["run"]["state"], shown["run"]["done"], shown["run"]["total"]) == ("running", 10, 25)
    assert shown["report"] is None
    fields = ("from_name", "task_id", "annotation_id", "given", "suggested", "score")
    error = dict(zip(fields, ("label", 3, 103, "red", "blue", 0.25), strict=True))
    with services.store.write() as session:
        leases.finish(session, run, RunState.FINISHED)
        label_error_reports.write(session, run, 25, [error], [])
    report = client.get("/api/v1/projects/1/label-errors").json["report"]
    assert report.pop("found_at") > answer.json["created_at"]
    assert report == {
        "run_id": run.id,
        "version": "p1.v0",
        "checked": 25,
        "found": 1,
        "left_out": [],
        "errors": [error],
    }
    assert model_server.embedded == []
    assert client.get("/api/v1/projects/9/label-errors").status_code == 404
    assert client.post("/api/v1/projects/9/label-errors").status_code == 404


@pytest.mark.usefixtures("connected")
def test_a_run_is_queued_shown_and_cancelled(client: FlaskClient, jobs: FakeJobs) -> None:
    answer = client.post("/api/v1/projects/1/preannotate", json={"task_ids": [3, 1]})
    assert answer.status_code == 202
    run = answer.json
    assert (run["state"], run["task_ids"], run["only_unlabeled"], run["version"]) == (
        "queued",
        [1, 3],
        False,
        None,
    )
    assert jobs.carried_out == [run["id"]]
    assert client.get("/api/v1/projects/1/preannotations").json == {"runs": [run]}
    assert client.get(f"/api/v1/projects/1/preannotations/{run['id']}").json == run
    cancelled = client.post(f"/api/v1/projects/1/preannotations/{run['id']}/cancel").json
    assert cancelled["state"] == "cancelled"
    assert client.get("/api/v1/projects/1/preannotations/99").status_code == 404


@pytest.mark.usefixtures("connected")
@pytest.mark.parametrize(("body", "only_unlabeled"), [(None, True), ({"only_unlabeled": False}, False)])
def test_without_task_ids_a_run_has_all_tasks_or_by_default_those_without_an_annotation(
    client: FlaskClient, jobs: FakeJobs, body: Any, only_unlabeled: bool
) -> None:
    run = client.post("/api/v1/projects/1/preannotate", json=body).json
    assert (run["only_unlabeled"], run["task_ids"]) == (only_unlabeled, None)


@pytest.mark.usefixtures("connected")
@pytest.mark.parametrize("body", [{"task_ids": []}, {"task_ids": ["1"]}, {"only_unlabeled": "perhaps"}, []])
def test_a_malformed_request_is_refused(client: FlaskClient, jobs: FakeJobs, body: Any) -> None:
    assert client.post("/api/v1/projects/1/preannotate", json=body).status_code == 400
    assert jobs.carried_out == []


def test_a_run_without_a_token_is_refused_with_what_to_do(client: FlaskClient) -> None:
    client.post("/setup", json=requests.setup())
    answer = client.post("/api/v1/projects/1/preannotate")
    assert answer.status_code == 409
    assert "`lorabel connect`" in answer.json["error"]
    assert client.post("/api/v1/projects/9/preannotate").status_code == 404


@pytest.fixture
def failing(model_server: FakeModelServer) -> None:
    """The model server answers only the first piece of a request. Late rows are treated in the same way."""
    model_server.status, model_server.fails_from = 500, 1


@pytest.mark.usefixtures("connected", "failing")
def test_the_unanswered_tasks_of_a_request_for_many_become_a_bulk_run(
    client: FlaskClient, jobs: FakeJobs, services: Services, model_server: FakeModelServer
) -> None:
    names = ["blue", "forbidden"] * 150
    entries = results(client, *(picture(i, name) for i, name in enumerate(names)))
    assert all(choices(entry) == {"label": ["blue"]} for entry in entries[:256:2])
    assert entries[256:] == [[]] * 44
    with services.store.read() as session:
        (run,) = bulk_runs.list_of(session, 1)
    assert run.task_ids == list(range(256, 300)), "tasks that cannot be read are not part of the run"
    assert jobs.carried_out == [run.id]
    assert model_server.requests[0].priority == Priority.BULK


@pytest.mark.parametrize("status", [500, 503])
@pytest.mark.usefixtures("connected", "failing")
def test_all_tasks_of_a_request_become_a_bulk_run_if_the_model_server_fails_at_once(
    client: FlaskClient, jobs: FakeJobs, services: Services, model_server: FakeModelServer, status: int
) -> None:
    """Label Studio does not repeat a request for many tasks. It repeats one for a single task, so that fails."""
    model_server.status, model_server.fails_from = status, 0
    assert results(client, picture(1, "red"), picture(2, "blue")) == [[], []]
    with services.store.read() as session:
        (run,) = bulk_runs.list_of(session, 1)
    assert run.task_ids == [1, 2]
    assert jobs.carried_out == [run.id]
    assert client.post("/predict", json=requests.predict(picture(1, "red"))).status_code in (502, 503)


@pytest.mark.usefixtures("failing")
def test_without_a_token_unanswered_tasks_become_no_bulk_run_and_are_logged(
    client: FlaskClient, jobs: FakeJobs, caplog: pytest.LogCaptureFixture
) -> None:
    entries = results(client, *(picture(i, "blue") for i in range(300)))
    assert entries[256:] == [[]] * 44
    assert jobs.carried_out == []
    assert "44 tasks stay without a prediction: project 1: predictions cannot be written back" in caplog.text


@pytest.mark.usefixtures("connected")
def test_opening_a_task_enqueues_the_look_ahead_after_the_answer_is_sent(
    client: FlaskClient, jobs: FakeJobs, model_server: FakeModelServer
) -> None:
    answer = client.post("/predict", json=requests.predict(picture(7, "red")))
    assert len(answer.json["results"]) == 1
    assert jobs.looked_ahead == []
    answer.close()
    assert jobs.looked_ahead == [(1, 7)]
    assert model_server.requests[0].priority == Priority.INTERACTIVE


def test_nothing_is_enqueued_without_a_token_since_nobody_can_say_which_tasks_come_next(
    client: FlaskClient, jobs: FakeJobs
) -> None:
    answer = client.post("/predict", json=requests.predict(picture(7, "red")))
    answer.close()
    assert answer.json["results"][0]["result"] and jobs.looked_ahead == []


@pytest.mark.usefixtures("connected")
def test_nothing_is_enqueued_if_no_control_tag_is_served(client: FlaskClient, jobs: FakeJobs) -> None:
    unserved = '<View><Image name="i" value="$image"/><MagicWand name="w" toName="i"/></View>'
    answer = client.post("/predict", json={**requests.predict(picture(7, "red")), "label_config": unserved})
    answer.close()
    assert answer.json == {"results": [[]]} and jobs.looked_ahead == []


@pytest.mark.usefixtures("connected")
@pytest.mark.parametrize(("tasks", "parts"), [(1, {"context": {"result": []}}), (2, {})])
def test_smart_tools_and_requests_for_many_tasks_enqueue_no_look_ahead(
    client: FlaskClient, jobs: FakeJobs, tasks: int, parts: dict[str, Any]
) -> None:
    pictures = [picture(7, "red"), picture(8, "blue")]
    client.post("/predict", json=requests.predict(*pictures[:tasks], **parts)).close()
    assert jobs.looked_ahead == []


def test_a_promotion_enqueues_the_look_ahead(client: FlaskClient, jobs: FakeJobs) -> None:
    client.post("/setup", json=requests.setup())
    assert client.post("/api/v1/projects/1/promote", json={"version": 0}).status_code == 200
    assert jobs.looked_ahead == [(1, 0)]
