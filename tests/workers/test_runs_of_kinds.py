"""Training runs with LORA_KIND: from annotations to live, from one kind to another, and what is refused."""

from dataclasses import replace

import pytest
import torch

from lorabel.database import projects
from lorabel.database.store import Store
from lorabel.database.tables import Annotation
from lorabel.families.cache import FeatureCache
from lorabel.families.dual_encoder import DualEncoder
from lorabel.settings import Settings
from model_server.adapters import AdapterBank
from tests.questions import about_picture
from tests.workers.pictures import GRADES, data_url, pictures
from tests.workers.test_finetune import PROJECT, SOURCE, annotate, demo_settings, services, train, version_of
from workers.services import Services

__all__ = ["demo_settings", "services"]

pytestmark = pytest.mark.slow


def of_kind(services: Services, kind: str, monkeypatch: pytest.MonkeyPatch) -> Services:
    """The services with another LORA_KIND, also for the next run."""
    changed = replace(services, settings=services.settings.model_copy(update={"lora_kind": kind}))
    monkeypatch.setattr(Services, "current", lambda: changed)
    return changed


@pytest.mark.long
def test_a_project_goes_from_one_kind_to_another_and_both_are_served_in_one_batch(
    services: Services, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second run begins anew and learns as well; it is compared with the first one's adapter."""
    of_kind(services, "dora", monkeypatch)
    annotate(store, 1, 50)
    first = version_of(store, train(store))
    assert first.metrics["candidate"]["grade"]["accuracy"] >= 0.8
    of_kind(services, "rslora", monkeypatch)
    annotate(store, 51, 60)
    run = train(store)
    second = version_of(store, run)
    assert "begun anew as rslora, since live is dora" in str(run.decision)
    assert run.config is not None and run.config["kind"] == "rslora"
    assert second.metrics["live"]["grade"]["accuracy"] >= 0.8, "live answers in the comparison"
    assert second.metrics["candidate"]["grade"]["accuracy"] >= 0.8
    family = DualEncoder.load(SOURCE, torch.device("cpu"), torch.float32, Settings())
    bank = AdapterBank(family, services.adapter_folders, 10**9)
    shown = pictures(13, seed=77)
    question = [about_picture(data_url(picture), tuple(GRADES.values())) for picture in shown]
    prepared = [family.prepare(each, services.fetcher.fetch) for each in question]
    names = [version.adapters["grade"] for version in (first, second)]
    rows = [(content, name) for content in prepared for name in names]
    with torch.inference_mode():
        answers = family.predict([row for row, _ in rows], [name for _, name in rows], bank, FeatureCache({}))
    labels = [list(GRADES.values())[max(range(3), key=answer.probabilities.__getitem__)] for answer in answers]
    for number in range(len(names)):
        right = [label == GRADES[picture.fill] for label, picture in zip(labels[number::2], shown, strict=True)]
        assert sum(right) >= 0.8 * len(right)


def test_what_a_kind_cannot_learn_is_refused_when_the_run_starts(
    services: Services, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The layer for ratings begins with zeros, which factors leave zero."""
    of_kind(services, "ia3", monkeypatch)
    rating = '<View><Image name="image" value="$image"/><Rating name="grade" toName="image"/></View>'
    projects.upsert(store, PROJECT, label_config=rating)
    annotate(store, 1, 12)
    with store.write() as session:
        for row in session.query(Annotation):
            row.result = [{**row.result[0], "type": "rating", "value": {"rating": row.id % 5 + 1}}]
    run = train(store)
    assert run.version_number is None and run.error is None
    assert "LORA_KIND=ia3" in str(run.decision) and "LORA_KIND_DUAL_ENCODER=lora" in str(run.decision)


def test_a_kind_for_a_family_that_is_not_there_fails_the_run_with_its_name(
    services: Services, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = services.settings.model_copy(update={"lora_kinds": {"dual_encodr": "dora"}})
    monkeypatch.setattr(Services, "current", lambda: replace(services, settings=settings))
    annotate(store, 1, 3)
    assert "LORA_KIND_DUAL_ENCODR" in str(train(store).error)
