"""What a review has drawn and people have annotated proves nothing to the next acceptance, which allows for it."""

from typing import Any

import pytest

from lorabel.curation.proven_precision import prove
from lorabel.database import acceptances
from lorabel.database.acceptance_tables import AcceptedState, AcceptedTask
from lorabel.database.tables import Acceptance, Annotation, now
from lorabel.labeling.regions import choices
from tests.lorabel.fake_label_studio import FakeLabelStudio
from tests.workers.conftest import add_tasks
from workers import accept_tasks
from workers.services import Services

pytestmark = [pytest.mark.slow, pytest.mark.servers]


def review(services: Services, sampled: range, others: range) -> None:
    with services.store.write() as session:
        promised = {"precision": 0.6, "confidence": 0.6, "is_together": True, "is_written": False}
        acceptance = Acceptance(project_id=1, run_id=99, review_size=len(sampled), **promised)
        session.add(acceptance)
        session.flush()
        for task_id in (*sampled, *others):
            row = AcceptedTask(acceptance_id=acceptance.id, task_id=task_id, project_id=1, result=[])
            row.is_sampled, row.state = task_id in sampled, AcceptedState.SHOWN
            session.add(row)


def test_tasks_of_a_reviewed_sample_are_no_cases_and_count_as_accepted_before(
    services: Services, label_studio: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_tasks(label_studio, *["red"] * 9, first=1, annotations=1)
    add_tasks(label_studio, *["red"] * 6, first=10)
    for task in label_studio.tasks[:9]:
        task["annotations"] = [{"id": task["id"], "result": [choices("label", "image", ["red"])]}]
    with services.store.write() as session:
        for task in label_studio.tasks[:9]:
            row = Annotation(project_id=1, id=task["id"], task_id=task["id"], task_data=task["data"])
            row.result, row.updated_at = [choices("label", "image", ["red"])], now()
            session.add(row)
    # Of the sample, 6 to 9 are annotated and 10 and 11 are open. 5 and 12 were shown and not drawn.
    review(services, sampled=range(6, 12), others=range(5, 13, 7))
    counts: list[tuple[int, int, int]] = []

    def noted(cases: Any, scores: Any, precision: float, confidence: float, taken: Any) -> Any:
        counts.append((len(cases), len(scores), len(taken)))
        return prove(cases, scores, precision, confidence, taken)

    monkeypatch.setattr(accept_tasks, "prove", noted)
    asked: dict[str, Any] = {"precision": 0.6, "confidence": 0.6, "is_together": True, "user_email": None}
    _, run = acceptances.request(services.store, 1, "test", **asked)
    accept_tasks.accept_tasks(run.id)
    assert counts == [(5, 6, 4)]
