"""Rules in bulk runs: predictions follow them, and nothing that they remove is accepted unseen."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select

from lorabel.database import acceptances, bulk_runs, rule_effects, rules
from lorabel.database.acceptance_tables import AcceptedState, AcceptedTask
from lorabel.database.tables import Acceptance, Annotation, BulkRun, RunState, now
from tests.lorabel.fake_label_studio import FakeLabelStudio
from tests.workers.conftest import add_tasks
from tests.workers.test_preannotate import counts, preannotate_tasks, versions_of
from workers import preannotate
from workers.accept_tasks import accept_tasks
from workers.services import Services

pytestmark = [pytest.mark.slow, pytest.mark.servers]
NO_RED = '[[field]]\nname = "no red"\nfield = "country"\nis = "DE"\nforbidden = ["red"]\n'
LABELED, OPEN = 40, 10


def in_germany(label_studio: FakeLabelStudio) -> None:
    for task in label_studio.tasks:
        task["data"]["country"] = "DE"


def accept(services: Services) -> tuple[Acceptance, BulkRun]:
    """Ask what may be accepted, and carry that out as a worker does. Nothing is written."""
    asked: dict[str, Any] = {"precision": 0.6, "confidence": 0.6, "is_together": False, "user_email": None}
    acceptance, run = acceptances.request(services.store, 1, "test", **asked)
    accept_tasks(run.id)
    with services.store.read() as session:
        return acceptances.get(session, 1, acceptance.id), bulk_runs.get(session, 1, run.id)


def test_bulk_runs_follow_the_rules_and_replace_predictions_by_earlier_ones(
    services: Services, label_studio: FakeLabelStudio
) -> None:
    add_tasks(label_studio, "red", "blue")
    in_germany(label_studio)
    assert counts(preannotate_tasks(services)) == (RunState.FINISHED, 2, 0, 0)
    rules.set_file(services.store, 1, NO_RED)
    assert counts(preannotate_tasks(services)) == (RunState.FINISHED, 2, 0, 0)
    assert versions_of(label_studio) == [["p1.v0", "p1.v0.r1"]] * 2
    assert [len(task["predictions"][-1]["result"]) for task in label_studio.tasks] == [0, 1]
    assert counts(preannotate_tasks(services)) == (RunState.FINISHED, 0, 2, 0)
    with services.store.read() as session:
        assert rule_effects.counts(session, 1) == [("no red", "field", 1, 1)]
        (effect,) = rule_effects.newest(session, 1, 10)
    assert (effect.task_id, effect.version) == (1, "p1.v0.r1")
    rules.remove(services.store, 1)
    assert counts(preannotate_tasks(services)) == (RunState.FINISHED, 0, 2, 0), "those without rules are there"


def test_what_follows_the_rules_of_now_is_not_written_twice_by_a_run_that_began_before(
    services: Services, label_studio: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer to an import was lost, or the labeling stream has asked for predictions meanwhile."""
    add_tasks(label_studio, *["blue"] * 10)
    real = preannotate._read_page

    def read_page(*arguments: Any) -> Any:
        monkeypatch.setattr(preannotate, "_read_page", real)
        rules.set_file(services.store, 1, NO_RED)
        for number, task in enumerate(label_studio.tasks[:3], start=1):
            task["predictions"].append(
                {"id": number, "model_version": "p1.v0.r1", "created_at": now().isoformat(), "result": []}
            )
        return real(*arguments)

    monkeypatch.setattr(preannotate, "_read_page", read_page)
    assert counts(preannotate_tasks(services)) == (RunState.FINISHED, 7, 3, 0)
    assert versions_of(label_studio) == [["p1.v0.r1"]] * 10


def test_what_a_rule_removes_proves_nothing_and_is_not_accepted(
    services: Services, label_studio: FakeLabelStudio
) -> None:
    add_tasks(label_studio, *["red", "blue"] * (OPEN // 2), first=1000)
    in_germany(label_studio)
    with services.store.write() as session:
        for number in range(LABELED):
            colour = ("red", "blue")[number % 2]
            region = {
                "from_name": "label",
                "to_name": "image",
                "type": "choices",
                "value": {"choices": [colour]},
            }
            data = {"image": f"http://pictures.test/{colour}{number}.png", "country": "DE"}
            at = now() + timedelta(seconds=number)
            session.add(
                Annotation(project_id=1, id=number, task_id=number, task_data=data, result=[region], updated_at=at)
            )
    by_label = {proof["label"]: proof for proof in accept(services)[0].labels or []}
    assert {label: (proof["cases"], proof["tasks"]) for label, proof in by_label.items()} == {
        "red": (LABELED // 2, OPEN // 2),
        "blue": (LABELED // 2, OPEN // 2),
    }
    rules.set_file(services.store, 1, NO_RED)
    acceptance, run = accept(services)
    assert (run.state, run.error, acceptance.version) == (RunState.FINISHED, None, "p1.v0.r1")
    by_label = {proof["label"]: proof for proof in acceptance.labels or []}
    assert {label: (proof["cases"], proof["tasks"]) for label, proof in by_label.items()} == {
        "red": (0, 0),
        "blue": (LABELED // 2, OPEN // 2),
    }


def test_nothing_is_written_that_was_predicted_by_other_rules(
    services: Services, label_studio: FakeLabelStudio
) -> None:
    """A run was killed after it had planned what to write, and the rules were changed before it goes on."""
    add_tasks(label_studio, "red")
    rules.set_file(services.store, 1, NO_RED)
    asked: dict[str, Any] = {"precision": 0.6, "confidence": 0.6, "is_together": True}
    asked |= {"user_email": "machine@example.com"}
    acceptance, run = acceptances.request(services.store, 1, "test", **asked)
    with services.store.write() as session:
        row = session.get_one(Acceptance, acceptance.id)
        row.labels, row.version, row.user_id = [], "p1.v0", 1
        session.add(
            AcceptedTask(acceptance_id=row.id, task_id=1, project_id=1, result=[], state=AcceptedState.PLANNED)
        )
    accept_tasks(run.id)
    with services.store.read() as session:
        run = bulk_runs.get(session, 1, run.id)
        assert session.scalars(select(AcceptedTask.state)).all() == [AcceptedState.PLANNED]
    assert run.state == RunState.FAILED
    assert run.error is not None and "the rules of project 1 were changed" in run.error
    assert label_studio.tasks[0]["annotations"] == []
