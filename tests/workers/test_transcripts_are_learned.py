"""Whisper tiny.en learns invented names from 16 corrected transcripts of sentences that espeak-ng speaks."""

from datetime import timedelta
from pathlib import Path

import pytest

from lorabel.database import projects
from lorabel.database.store import Store
from lorabel.database.tables import Annotation, VersionState
from lorabel.families.cache import FeatureCache
from lorabel.families.speech import Speech
from lorabel.families.transcription.conversion import convert
from lorabel.labeling import regions
from lorabel.problems.binding import bind
from lorabel.settings import Settings
from model_server.adapters import AdapterBank
from tests import whisper_tiny
from tests.e2e.courses import data_url
from tests.workers.events import START
from tests.workers.test_finetune import PROJECT, train, version_of
from workers.services import Services

CONFIG = '<View><Audio name="audio" value="$audio"/><TextArea name="transcript" toName="audio"/></View>'
(BINDING,) = bind(CONFIG).bindings
CORRECTED = 16


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(1800)
def test_the_word_error_rate_of_unseen_sentences_is_halved_by_16_corrections(
    settings: Settings, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert(whisper_tiny.folder(), tmp_path / "whisper")
    changed = {
        "models": {"speech": f"local-dir:{tmp_path / 'whisper'}"},
        "precision": "float32",
        "model_server_url": "http://127.0.0.1:9",
    }
    services = Services.open(settings.model_copy(update=changed))
    monkeypatch.setattr(Services, "current", lambda: services)
    projects.upsert(store, PROJECT, label_config=CONFIG)
    sentences = whisper_tiny.sentences_with_names()
    with store.write() as session:
        for number, sentence in enumerate(sentences[:CORRECTED], start=1):
            session.add(
                Annotation(
                    id=number,
                    project_id=PROJECT,
                    task_id=number,
                    task_data={"audio": data_url(whisper_tiny.spoken(sentence), "audio/wav")},
                    result=[regions.textarea("transcript", "audio", [sentence])],
                    updated_at=START + timedelta(seconds=number),
                    times_applied=1,
                )
            )
    version = version_of(store, train(store))
    assert version.state == VersionState.LIVE, version.metrics["decision"]
    served = services.family(Speech)
    family = Speech.load(served.source, served.device, served.dtype, services.settings)
    bank = AdapterBank(family, services.adapter_folders, 10**9)
    unseen = sentences[CORRECTED:]
    files = iter([whisper_tiny.spoken(sentence) for sentence in unseen])
    question = BINDING.model_input({"audio": "/data/sound.wav"})
    inputs = [family.prepare(question, lambda _: next(files)) for _ in unseen]
    targets = [BINDING.target([regions.textarea("transcript", "audio", [sentence])], {}) for sentence in unseen]
    rates = []
    for adapter in (None, version.adapters["transcript"]):
        outputs = family.predict(inputs, [adapter] * len(unseen), bank, FeatureCache({}))
        rates.append(BINDING.metrics(targets, outputs).values["word_error_rate"])
    services.close()
    print(f"\n  word error rate of {len(unseen)} unseen sentences: {rates[0]:.2f} -> {rates[1]:.2f}")  # noqa: T201
    assert rates[0] > 0.2 and rates[1] <= 0.5 * rates[0]
