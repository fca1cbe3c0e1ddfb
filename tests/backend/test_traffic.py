"""How many predictions the last hour had, and how long they took."""

import pytest
from flask.testing import FlaskClient

from backend import traffic
from backend.services import Services
from backend.traffic import Traffic
from tests.backend import page_history, requests
from tests.backend.test_pages import get, text_of


def test_latency_and_failures_are_those_of_the_last_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    kept, clock = Traffic(), [0.0]
    monkeypatch.setattr(traffic.time, "monotonic", lambda: clock[0])
    assert kept.last_hour().median_s is None
    kept.add(50.0, 200)
    clock[0] = 1800.0
    for number in range(1, 101):
        kept.add(number / 100, 503 if number > 97 else 200)
    clock[0] = 3601.0
    hour = kept.last_hour()
    assert (hour.answers, hour.failed, hour.span_s) == (100, 3, 3600)
    assert hour.median_s == pytest.approx(0.505)
    assert hour.p95_s == pytest.approx(0.95, abs=0.01)
    clock[0] = 9000.0
    assert kept.last_hour().answers == 0


def test_of_more_answers_than_are_kept_the_span_is_shorter(monkeypatch: pytest.MonkeyPatch) -> None:
    kept, clock = Traffic(), [0.0]
    monkeypatch.setattr(traffic.time, "monotonic", lambda: clock[0])
    for number in range(traffic.MOST_KEPT + 1000):
        clock[0] = number / 100
        kept.add(0.1, 200)
    hour = kept.last_hour()
    assert hour.answers == traffic.MOST_KEPT
    assert hour.span_s == pytest.approx(200, abs=0.1)


def test_the_page_of_all_projects_shows_predictions_of_the_last_hour(
    client: FlaskClient, services: Services
) -> None:
    page_history.write(services.store)
    assert "Predictions, 1 h 0 answers to Label Studio" in text_of(get(client, "/ui/"))
    client.post("/predict", json=requests.predict(requests.task(1)))
    said = text_of(get(client, "/ui/"))
    assert "Predictions, 1 h 1 half within" in said
