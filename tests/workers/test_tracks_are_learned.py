"""A run learns from annotated tracks how boxes are drawn: with a margin around the thing, see the course."""

from datetime import timedelta

import pytest

from lorabel.database import projects
from lorabel.database.store import Store
from lorabel.database.tables import Annotation, VersionState
from lorabel.demo import DETECTOR_FOLDER
from lorabel.settings import Settings
from tests.e2e.courses.tracks import COURSE
from tests.workers.events import START
from tests.workers.test_finetune import PROJECT, train, version_of
from workers.services import Services


@pytest.mark.slow
@pytest.mark.long
def test_a_run_is_better_than_the_head_on_videos_that_nobody_learned_from(
    settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = {
        "models": {"detector": f"local-dir:{DETECTOR_FOLDER}"},
        "precision": "float32",
        "model_server_url": "http://127.0.0.1:9",
    }
    services = Services.open(settings.model_copy(update=changed))
    monkeypatch.setattr(Services, "current", lambda: services)
    projects.upsert(store, PROJECT, label_config=COURSE.label_config)
    with store.write() as session:
        for number, (data, result) in enumerate(COURSE.tasks[: -COURSE.unseen], start=1):
            session.add(
                Annotation(
                    id=number,
                    project_id=PROJECT,
                    task_id=number,
                    task_data=data,
                    result=result,
                    updated_at=START + timedelta(seconds=number),
                    times_applied=1,
                )
            )
    run = train(store)
    services.close()
    version = version_of(store, run)
    candidate, live = (version.metrics[side]["label"] for side in ("candidate", "live"))
    assert version.state == VersionState.LIVE, run.decision
    assert candidate["idf1"] > live["idf1"] + 0.05, run.decision
