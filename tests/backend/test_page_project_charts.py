"""Calibration, growth and days on the page of a project, against figures that the test knows."""

import re
from datetime import UTC, datetime, timedelta

import pytest
from flask.testing import FlaskClient

from backend.pages import kept_if_slow
from backend.pages.project import _buckets
from backend.pages.project_charts import calibration, outcomes_by_day
from backend.services import Services
from lorabel.database.newest_answers import Answer
from lorabel.database.tables import Annotation, ModelVersion, Project, VersionState, now
from lorabel.evaluation.agreement import Outcome
from tests.backend import page_history
from tests.backend.test_pages import get, read_rows, text_of

P1 = "/ui/projects/1"


def answer(number: int, score: float | None, *, is_accepted: bool, version: str = "p1.v1.h2") -> Answer:
    outcome = Outcome.UNCHANGED if is_accepted else Outcome.CORRECTED
    at = datetime(2026, 11, 1, 23, tzinfo=UTC) + timedelta(minutes=number)
    return Answer(number, at, None, True, version, score, outcome, None, None)


def test_scores_are_compared_with_what_annotators_did() -> None:
    # Of 20 predictions with a score of 0.6, 12 are accepted; of 20 with 0.9, 14: these promise too much.
    answers = [answer(number, 0.6, is_accepted=number < 12) for number in range(20)]
    answers += [answer(number, 0.9, is_accepted=number < 14) for number in range(20)]
    answers += [answer(1, 0.1, is_accepted=True, version="another model"), answer(1, None, is_accepted=True)]
    found = calibration(Project(id=1), answers)
    assert [(row.mean, row.shown, row.accepted) for row in found.bins] == [
        (pytest.approx(0.6), 20, 12),
        (pytest.approx(0.9), 20, 14),
    ]
    assert found.shown == 40
    assert found.error == pytest.approx(0.5 * 0.0 + 0.5 * 0.2)
    assert found.chart is not None
    # On a diagonal from corner to corner a score of 60 % is at 60 % of the height.
    assert [tick.text for tick in found.chart.x_ticks] == ["0 %", "25 %", "50 %", "75 %", "100 %"]
    low, high = found.chart.y_ticks[0].at, found.chart.y_ticks[-1].at
    assert (found.chart.dots[0].y - low) / (high - low) == pytest.approx(0.6)


def test_too_few_scores_have_no_chart() -> None:
    found = calibration(Project(id=1), [answer(number, 0.5, is_accepted=True) for number in range(39)])
    assert (found.chart, found.bins, found.shown) == (None, [], 39)


def test_outcomes_are_counted_by_day() -> None:
    answers = [answer(number, None, is_accepted=number % 2 == 0) for number in range(0, 120, 30)]
    assert outcomes_by_day(answers) == [
        ("2026-11-02", {Outcome.UNCHANGED: 2}, 2),
        ("2026-11-01", {Outcome.UNCHANGED: 2}, 2),
    ]


def test_the_page_says_how_many_more_annotations_are_likely_needed(
    client: FlaskClient, services: Services
) -> None:
    page_history.write(services.store)
    assert "It needs 4 measured versions".lower() in text_of(get(client, P1)).lower()
    with services.store.write() as session:
        for number in range(4, 10):
            version = page_history.version(number, 3, VersionState.RETIRED, 0.9, 0.8)
            version.trained_on = list(range(40 * 2 ** (number - 4)))
            error = 0.5 * 2 ** -((number - 4) / 2)
            version.metrics = {
                "candidate": {"shape": {"tasks": 4000, "accuracy": 1 - error}},
                "primary": {"shape": "accuracy"},
            }
            session.add(version)
        for version in session.query(ModelVersion).filter(ModelVersion.number < 4):
            version.metrics = {}
    # The error is 0.5 with 40 annotations and falls with the root of their number: it is 0.05 with 4000.
    said = text_of(get(client, f"{P1}?target=0.95"))
    match = re.search(r"About ([\d,]+) more annotations are likely needed for 95 %, ([\d,]+) in all", said)
    assert match is not None, said
    assert int(match[2].replace(",", "")) == pytest.approx(4000, rel=0.35)
    assert int(match[2].replace(",", "")) - int(match[1].replace(",", "")) == 1280
    assert "80 % is reached" in text_of(get(client, f"{P1}?target=0.8"))
    assert read_rows(get(client, P1))["1,280"][0] in ("91.0 %", "91.1 %", "91.2 %")


def test_a_project_that_takes_long_to_count_is_counted_in_the_background(
    client: FlaskClient, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    page_history.write(services.store)
    monkeypatch.setattr(kept_if_slow, "QUICK_S", 0.0)
    assert services.project_counts.get(1).annotations == 205
    with services.store.write() as session:
        session.add(Annotation(project_id=1, id=999, task_id=999, result=[], updated_at=now()))
    assert services.project_counts.get(1).annotations == 205
    assert services.project_counts.get(2).annotations == 0
    snapshot = services.project_counts._slow[1]
    snapshot.renew()
    snapshot.close(timeout_s=10)
    assert services.project_counts.get(1).annotations == 206


def test_annotations_have_positive_numbers_where_the_count_is_older_than_they_are() -> None:
    buckets = _buckets([answer(number, 0.5, is_accepted=True) for number in range(30)], 5)
    assert [name for name, *_ in buckets] == ["1 to 10", "11 to 20", "21 to 30"]
