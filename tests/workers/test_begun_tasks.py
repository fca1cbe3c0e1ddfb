"""Bulk runs of tasks in which an annotator has drawn a box in one frame of a video, for a tracker to follow."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from lorabel.database import projects
from lorabel.database.tables import now
from tests.backend.fake_model_server import FakeModelServer
from tests.lorabel.fake_label_studio import PERSONAL_TOKEN, FakeLabelStudio
from tests.lorabel.inference.test_begun import CONFIG, TRACKING, drawn
from tests.workers.test_preannotate import counts, preannotate_tasks
from workers.services import Services

pytestmark = [pytest.mark.slow, pytest.mark.servers]


def test_a_task_is_predicted_again_once_after_a_box_was_drawn_in_it(
    services: Services,
    label_studio: FakeLabelStudio,
    model_server: FakeModelServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without heads, the version stays the same after an annotation, as it does where an adapter answers."""
    settings = services.settings.model_copy(update={"models": TRACKING.models})
    following = replace(services, settings=settings)
    monkeypatch.setattr(Services, "current", lambda: following)
    url = label_studio.url
    projects.upsert(services.store, 1, label_config=CONFIG, label_studio_url=url, api_key=PERSONAL_TOKEN)
    label_studio.tasks += [task(number) for number in (1, 2)]
    assert counts(preannotate_tasks(following)) == ("finished", 2, 0, 0)
    assert counts(preannotate_tasks(following)) == ("finished", 0, 2, 0)

    submitted_at = now() + timedelta(microseconds=1)
    annotation = {"id": 1, "result": drawn(10), "was_cancelled": False, "updated_at": submitted_at.isoformat()}
    label_studio.tasks[0]["annotations"] = [annotation]
    # Its event has not been applied yet.
    assert counts(preannotate_tasks(following)) == ("finished", 1, 1, 0)
    assert [len(row.input["begun"]) for row in model_server.rows] == [0, 0, 1]
    assert [len(each["predictions"]) for each in label_studio.tasks] == [1, 1], "the old one is deleted"
    assert counts(preannotate_tasks(following)) == ("finished", 0, 2, 0)


def task(number: int) -> dict[str, Any]:
    return {
        "id": number,
        "data": {"video": f"http://videos.test/{number}.mp4"},
        "annotations": [],
        "predictions": [],
        "total_annotations": 0,
        "cancelled_annotations": 0,
    }
