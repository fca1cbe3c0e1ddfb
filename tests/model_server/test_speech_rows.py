"""Sounds of several projects in the model server: each gets the text that it gets alone."""

import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from lorabel.contracts import Content, MediaRef, Modality
from lorabel.database.adapter_folders import AdapterFolders
from lorabel.families.speech import Speech
from lorabel.families.transcription.tiny_speech_model import write_speech_model
from lorabel.inference.messages import PredictRequest, Priority, RowResult
from lorabel.settings import Settings
from lorabel.text_contracts import TranscriptInput
from model_server.app import create_app
from model_server.engine import Engine
from tests.audio_files import RATE_HZ, Samples, chirp, encoded, noise, tone
from tests.e2e.courses import data_url
from tests.model_server.test_adapters import save_random_adapter
from tests.questions import row

pytestmark = pytest.mark.slow

TIMEOUT_S = 60.0
PAUSE = np.zeros(round(0.2 * RATE_HZ), np.float32)
# Of each project: the names that it is told, and its sounds. The tiny model hears a second at once.
PROJECTS: dict[int, tuple[tuple[str, ...], tuple[Samples, ...]]] = {
    1: (("Zorvek",), (noise(1, 0.9), np.concatenate([chirp(300, 2500, 0.8), PAUSE, noise(2, 0.8), PAUSE]))),
    2: (("Tashnovi", "Ada"), (noise(3, 4.3), tone(300, 0.3), noise(1, 0.9))),
    3: ((), (chirp(200, 3000, 0.6), noise(4, 2.2), noise(1, 0.9))),
}
Start = Callable[[], Engine]
Answers = Callable[[], list[RowResult]]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(2)
    return write_speech_model(tmp_path_factory.mktemp("model") / "base")


@pytest.fixture
def start(source: str, tmp_path: Path) -> Iterator[Start]:
    """Starts model servers that have adapters of the three projects, of different ranks."""
    torch.manual_seed(1)
    family = Speech.load(source, torch.device("cpu"), torch.float32, Settings())
    for project in PROJECTS:
        folders = AdapterFolders(tmp_path / "adapters")
        save_random_adapter(family, folders, f"p{project}.v1", 2 + project)
    engines: list[Engine] = []

    def new() -> Engine:
        models = {"speech": source}
        settings = Settings(
            models=models, families="speech", device="cpu", precision="float32", data_dir=tmp_path, max_batch=8
        )
        engines.append(create_app(settings).extensions["engine"])
        return engines[-1]

    yield new
    for engine in engines:
        engine.close()


def submit(
    engine: Engine, project: int, files: Sequence[bytes], **fields: object
) -> Callable[[], list[RowResult]]:
    """Ask what is said in files, with the project's adapter and words."""
    words, _ = PROJECTS[project]
    questions = [
        TranscriptInput(
            contents=(Content(modality=Modality.AUDIO, media=MediaRef(url=data_url(file, "audio/wav"))),),
            words=words,
        )
        for file in files
    ]
    rows = [row(question, adapter=f"p{project}.v1/label") for question in questions]
    answers = engine.submit(PredictRequest(rows=rows, timeout_s=TIMEOUT_S, project=project, **fields))
    return lambda: [answer.result(TIMEOUT_S) for answer in answers]


def texts(results: Sequence[RowResult]) -> list[tuple[str, float]]:
    outputs = [result.output for result in results]
    assert None not in outputs, [result.error for result in results]
    return [(output["text"], output["probability"]) for output in outputs if output is not None]


def test_sounds_of_three_projects_get_together_the_texts_that_each_gets_alone(start: Start) -> None:
    """Of different adapters, words and lengths; one sound is asked about by all three. Each alone has a model
    server of its own, so that nothing is remembered."""
    engine = start()
    files = {project: [encoded(sound) for sound in sounds] for project, (_, sounds) in PROJECTS.items()}
    asked = {
        project: submit(engine, project, files[project], priority=priority)
        for project, priority in zip(PROJECTS, (Priority.BULK, Priority.INTERACTIVE, Priority.BULK), strict=True)
    }
    together = {project: texts(answers()) for project, answers in asked.items()}
    for project, of_project in files.items():
        for file, (text, probability) in zip(of_project, together[project], strict=True):
            ((text_alone, probability_alone),) = texts(submit(start(), project, [file])())
            assert text == text_alone
            assert probability == pytest.approx(probability_alone, abs=1e-4)
    of_one_sound = {together[1][0][0], together[2][2][0], together[3][2][0]}
    assert len(of_one_sound) == 3, "the adapters and words matter"


def wav(samples: Samples, *, channels: int = 1, rate_hz: int = RATE_HZ, claimed_bytes: int | None = None) -> bytes:
    """A WAV file with the header that is asked for, true or not."""
    data = (samples * 32767).astype("<i2").tobytes()
    size = len(data) if claimed_bytes is None else claimed_bytes
    header = struct.pack("<HHIIHH", 1, channels, rate_hz, rate_hz * 2 * channels, 2 * channels, 16)
    return (
        b"RIFF" + struct.pack("<I", min(36 + size, 2**32 - 1)) + b"WAVEfmt \x10\0\0\0" + header
        + b"data" + struct.pack("<I", size) + data
    )  # fmt: skip


SOUND = noise(7, 0.7)
CHORD = (tone(262, 0.9) + tone(330, 0.9) + tone(392, 0.9)) / np.float32(3)
# Each with what its reason says; None where there is a text.
BAD_FILES: dict[str, tuple[bytes, str | None]] = {
    "noise": (wav(noise(9, 1.5)), None),
    "music": (wav(CHORD), None),
    "a click": (wav(np.eye(1, 800, 400, dtype=np.float32)[0]), None),
    "silence": (wav(np.zeros(RATE_HZ, np.float32)), "all of it is silent"),
    "no samples": (wav(SOUND[:0]), ""),
    "nothing": (b"", ""),
    "a text": (b"This is a transcript, and no sound.", ""),
    "the first half of a header": (wav(SOUND)[:22], ""),
    "a header that says more than there is": (wav(SOUND, claimed_bytes=2**32 - 1), None),
    "a header that says less than there is": (wav(SOUND, claimed_bytes=2 * len(SOUND)) + b"\x13" * 5000, None),
    "a rate of nothing": (wav(SOUND, rate_hz=0), ""),
    "no channels": (wav(SOUND, channels=0), ""),
    "noise that is called a sound file": (b"OggS" + np.random.default_rng(1).bytes(5000), ""),
}


def test_sounds_that_cannot_be_heard_have_a_reason_and_change_nothing_for_others(start: Start) -> None:
    """All bad files of a project with sounds of another, in one batch."""
    (alone,) = texts(submit(start(), 2, [wav(SOUND)])())
    engine = start()
    good = [submit(engine, 2, [wav(SOUND)]), submit(engine, 3, [wav(noise(8, 2.5))])]
    bad = submit(engine, 1, [file for file, _ in BAD_FILES.values()])
    (beside,) = texts(good[0]())
    assert beside[0] == alone[0] and beside[1] == pytest.approx(alone[1], abs=1e-4)
    texts(good[1]())
    for (name, (_, reason)), result in zip(BAD_FILES.items(), bad(), strict=True):
        if reason is None:
            assert result.error is None and result.output is not None, f"{name}: {result.error}"
        else:
            assert result.error is not None and result.error.is_permanent, f"{name}: {result}"
            assert reason in result.error.reason and len(result.error.reason) > 10, f"{name}: {result.error}"
            assert "Error" not in result.error.reason, f"{name}: {result.error}"
    texts(submit(engine, 1, [wav(SOUND)])())


def test_a_header_that_lies_about_the_length_changes_no_word(start: Start) -> None:
    engine = start()
    honest, longer = texts(submit(engine, 1, [wav(SOUND), wav(SOUND, claimed_bytes=2**32 - 1)])())
    assert longer[0] == honest[0]


def test_a_language_that_the_model_lacks_is_said_in_the_reason_of_each_row(tmp_path: Path) -> None:
    """As with Whisper tiny.en and SPEECH_LANGUAGE=de."""
    source = write_speech_model(tmp_path / "english", is_multilingual=False)
    settings = Settings(
        models={"speech": source}, families="", device="cpu", data_dir=tmp_path, speech_language="de"
    )
    engine: Engine = create_app(settings).extensions["engine"]
    question = TranscriptInput(
        contents=(Content(modality=Modality.AUDIO, media=MediaRef(url=data_url(wav(SOUND), "audio/wav"))),)
    )
    answers = engine.submit(PredictRequest(rows=[row(question)] * 2, timeout_s=TIMEOUT_S, project=1))
    for answer in answers:
        error = answer.result(TIMEOUT_S).error
        assert error is not None and "SPEECH_LANGUAGE='de'; it knows en" in error.reason
        assert not error.is_permanent, "the setting may be changed"
    assert engine.is_alive
    engine.close()
