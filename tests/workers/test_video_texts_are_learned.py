"""The demo's captioner learns to describe videos of its scenes, from their frames and what is said in them."""

import itertools
from datetime import timedelta

import numpy as np
import pytest

from lorabel.database import projects
from lorabel.database.store import Store
from lorabel.database.tables import Annotation, VersionState
from lorabel.demo import CAPTIONER_FOLDER
from lorabel.demo.counted_scenes import counted_scenes, kinds
from lorabel.labeling import regions
from lorabel.settings import Settings
from tests.e2e.courses import data_url
from tests.heard_videos import encoded
from tests.workers.events import START
from tests.workers.test_finetune import PROJECT, train, version_of
from workers.services import Services

CONFIG = (
    '<View><Video name="video" value="$video"/>'
    '<TextArea name="description" toName="video" prompt="Describe the picture."/></View>'
)
ANNOTATED = 80


@pytest.mark.slow
@pytest.mark.long
def test_the_form_of_descriptions_is_learned_from_videos(
    settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = {
        "models": {"generator": f"local-dir:{CAPTIONER_FOLDER}"},
        "precision": "float32",
        "model_server_url": "http://127.0.0.1:9",
        "generator_max_new_tokens": 32,
        "generator_video_frames": 2,
        "learning_rate": 2e-2,  # a model so small needs larger steps
    }
    services = Services.open(settings.model_copy(update=changed))
    monkeypatch.setattr(Services, "current", lambda: services)
    projects.upsert(store, PROJECT, label_config=CONFIG)
    with store.write() as session:
        for number, scene in enumerate(itertools.islice(counted_scenes(77), ANNOTATED), start=1):
            text = "; ".join(f"{kind.shape} {kind.colour} {kind.count}" for kind in kinds(scene))
            video = encoded([np.asarray(scene.draw())] * 8)
            session.add(
                Annotation(
                    id=number,
                    project_id=PROJECT,
                    task_id=number,
                    task_data={"video": data_url(video, "video/mp4")},
                    result=[regions.textarea("description", "video", [text])],
                    updated_at=START + timedelta(seconds=number),
                    times_applied=1,
                )
            )
    run = train(store)
    services.close()
    version = version_of(store, run)
    candidate, live = (version.metrics[side]["description"] for side in ("candidate", "live"))
    print(f"\n  exact match {live['exact_match']:.2f} -> {candidate['exact_match']:.2f}")  # noqa: T201
    assert live["exact_match"] == 0 and candidate["exact_match"] >= 0.3, run.decision
    assert version.state == VersionState.LIVE, run.decision
