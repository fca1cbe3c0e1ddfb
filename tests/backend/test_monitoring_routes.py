from typing import Any

import pytest
from flask.testing import FlaskClient
from prometheus_client.parser import text_string_to_metric_families

from backend.services import Services
from lorabel.database.states import RunState
from lorabel.database.tables import TrainingRun
from tests.backend import requests


def test_metrics_are_readable_by_prometheus(client: FlaskClient) -> None:
    client.get("/health")
    answer = client.get("/metrics")
    assert answer.content_type == "text/plain; version=0.0.4; charset=utf-8"
    names = {family.name for family in text_string_to_metric_families(answer.text)}
    assert names >= {
        "lorabel_requests",
        "lorabel_request_seconds",
        "lorabel_predictions",
        "lorabel_unread_tasks",
        "lorabel_unserved_tasks",
        "lorabel_dropped_regions",
        "lorabel_events",
        "lorabel_refused_tokens",
    }


def test_requests_are_counted_by_endpoint_and_status(client: FlaskClient, metric: Any) -> None:
    client.post("/setup", json=requests.setup())
    client.post("/setup", json={})
    client.get("/api/v1/projects/1")
    client.get("/api/v1/projects/2")
    assert metric("lorabel_requests_total", endpoint="/setup", status="200") == 1
    assert metric("lorabel_requests_total", endpoint="/setup", status="400") == 1
    assert metric("lorabel_request_seconds_count", endpoint="/setup") == 2


def test_predictions_are_counted_once_whether_they_fail_or_not(
    client: FlaskClient, metric: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "backend.app")
    client.post("/setup", json=requests.setup())
    client.post("/predict", json=requests.predict(requests.task(1)))
    client.post("/predict", json={"project": "1.1"})
    assert metric("lorabel_requests_total", endpoint="/predict", status="200") == 1
    assert metric("lorabel_requests_total", endpoint="/predict", status="400") == 1
    assert metric("lorabel_request_seconds_count", endpoint="/predict") == 2
    assert [line.split(" ", 3)[:3] for line in caplog.messages if line.startswith("POST /predict ")] == [
        ["POST", "/predict", "200"],
        ["POST", "/predict", "400"],
    ]


def test_unknown_paths_and_actions_create_no_time_series(client: FlaskClient, services: Services) -> None:
    client.get("/a")
    before = len(client.get("/metrics").text.splitlines())
    for number in range(50):
        client.get(f"/{number}")
        client.post("/webhook", json={"action": f"ACTION_{number}"})
    assert len(client.get("/metrics").text.splitlines()) < before + 60


@pytest.mark.parametrize("path", ["/livez", "/health"])
def test_probes_do_not_fill_the_log(client: FlaskClient, caplog: pytest.LogCaptureFixture, path: str) -> None:
    caplog.set_level("INFO")
    client.get(path)
    assert path not in caplog.text


def test_a_request_writes_one_line_to_the_log(client: FlaskClient, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="backend")
    client.post("/setup", json=requests.setup())
    lines = [record.message for record in caplog.records if record.name == "backend.app"]
    assert len(lines) == 1
    assert lines[0].startswith("POST /setup 200 ")


def test_what_waits_and_what_runs_is_counted_at_each_scrape(client: FlaskClient, services: Services) -> None:
    client.post("/setup", json=requests.setup())
    with services.store.write() as session:
        for state in (RunState.RUNNING, RunState.FAILED, RunState.FAILED):
            session.add(TrainingRun(project_id=1, state=state, reason="test"))
    text = client.get("/metrics").text
    values = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert (values["lorabel_training_runs", "running"], values["lorabel_training_runs", "failed"]) == (1, 2)
    assert values[("lorabel_projects",)] == 1 and values[("lorabel_pending_events",)] == 0
    parts = services.vitals.parts.get(wait_s=5.0)
    if parts is not None and parts.value.redis_fault is None:
        assert values["lorabel_queue_jobs", "train"] == 0


@pytest.mark.changes_schema
def test_other_metrics_are_there_while_the_database_cannot_be_read(
    client: FlaskClient, services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    with services.store.write() as session:
        session.connection().exec_driver_sql("ALTER TABLE bulk_run RENAME TO gone")
    answer = client.get("/metrics")
    assert answer.status_code == 200
    assert "lorabel_predictions_total" in answer.text and "lorabel_projects " not in answer.text
    assert "metrics of the database are left out: it cannot be read" in caplog.messages
