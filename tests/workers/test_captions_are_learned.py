"""The demo's captioner learns a project's own form of captions, of pictures and of videos."""

import itertools
from collections.abc import Callable
from datetime import timedelta

import numpy as np
import pytest

from lorabel.database import projects
from lorabel.database.store import Store
from lorabel.database.tables import Annotation, VersionState
from lorabel.demo import CAPTIONER_FOLDER
from lorabel.demo.counted_scenes import counted_scenes, kinds
from lorabel.demo.scenes import Scene, png
from lorabel.labeling import regions
from lorabel.settings import Settings
from tests.e2e.courses import data_url
from tests.heard_videos import encoded
from tests.workers.events import START
from tests.workers.test_finetune import PROJECT, train, version_of
from workers.services import Services

CONFIG = (
    '<View><{tag} name="shown" value="$shown"/>'
    '<TextArea name="caption" toName="shown" placeholder="Describe the picture."/></View>'
)
ANNOTATED = 80


def picture_url(scene: Scene) -> str:
    return data_url(png(scene), "image/png")


def video_url(scene: Scene) -> str:
    return data_url(encoded([np.asarray(scene.draw())] * 8), "video/mp4")


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize(("tag", "url_of", "least"), [("Image", picture_url, 0.5), ("Video", video_url, 0.3)])
def test_a_form_that_the_captioner_was_not_asked_for_is_learned(
    tag: str,
    url_of: Callable[[Scene], str],
    least: float,
    settings: Settings,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
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
    projects.upsert(store, PROJECT, label_config=CONFIG.format(tag=tag))
    with store.write() as session:
        for number, scene in enumerate(itertools.islice(counted_scenes(77), ANNOTATED), start=1):
            text = "; ".join(f"{kind.shape} {kind.colour} {kind.count}" for kind in kinds(scene))
            session.add(
                Annotation(
                    id=number,
                    project_id=PROJECT,
                    task_id=number,
                    task_data={"shown": url_of(scene)},
                    result=[regions.textarea("caption", "shown", [text])],
                    updated_at=START + timedelta(seconds=number),
                    times_applied=1,
                )
            )
    run = train(store)
    services.close()
    version = version_of(store, run)
    candidate, live = (version.metrics[side]["caption"] for side in ("candidate", "live"))
    assert live["exact_match"] == 0 and candidate["exact_match"] >= least, run.decision
    assert version.state == VersionState.LIVE, run.decision
