"""Videos that are understood by frames, sound and speech, by heads over the model server's HTTP API.

Sounds are tones for a CLAP with random weights; words are subtitles."""

import base64
import json
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flask import Flask

from lorabel.contracts import Content, LabelScores, LabelsInput, LabelTarget, MediaRef, Modality
from lorabel.database.adapter_folders import HEAD_FILE, AdapterFolders
from lorabel.demo import MODEL_FOLDER
from lorabel.demo.pictures import SHAPES, Picture
from lorabel.families.audio_text_encoder import AudioTextEncoder
from lorabel.families.encoders.heads.fit import Example, fit_head
from lorabel.families.generator import Generator
from lorabel.families.text_encoder import TextEncoder
from lorabel.families.transcription.listening import Listening
from lorabel.families.transcription.tiny_speech_model import write_speech_model
from lorabel.feature_contracts import Features, FeaturesInput
from lorabel.inference import request_body
from lorabel.inference.messages import PredictRequest, PredictResponse, RowResult
from lorabel.settings import Settings
from lorabel.text_contracts import TextInput, TranscriptInput, WrittenText
from model_server import family_pool
from model_server.app import create_app
from tests.audio_files import RATE_HZ, Samples, noise, tone
from tests.e2e.courses import data_url
from tests.heard_videos import encoded
from tests.questions import row

pytestmark = pytest.mark.slow

LABELS = (("zeta",), ("delta",))
ANNOTATED, UNSEEN = 24, 24
Video = bytes


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models")
    return {
        "dual_encoder": f"local-dir:{MODEL_FOLDER}",
        "audio_text_encoder": AudioTextEncoder.tiny(folder / "clap"),
        "text_encoder": TextEncoder.tiny(folder / "text"),
        "speech": write_speech_model(folder / "speech"),
    }


Make = Callable[..., Flask]


@pytest.fixture
def make_app(models: dict[str, str], tmp_path: Path) -> Iterator[Make]:
    apps = []

    def make(**settings: Any) -> Flask:
        known = {"models": models, "families": "", "device": "cpu", "precision": "float32", "data_dir": tmp_path}
        apps.append(create_app(Settings(**{**known, **settings})))
        return apps[-1]

    yield make
    for app in apps:
        app.extensions["engine"].close()


@pytest.fixture
def transcribed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One item for each sound that the family `speech` begins to transcribe."""
    written: list[int] = []
    begin = Listening.begin

    def counted(self: Listening, *arguments: Any) -> None:
        written.append(1)
        begin(self, *arguments)

    monkeypatch.setattr(Listening, "begin", counted)
    return written


def pictures(colour: str, seed: int) -> list[np.ndarray[Any, Any]]:
    shape = random.Random(seed).choice(list(SHAPES))
    return [np.asarray(Picture(colour, shape, seed=seed).draw())] * 4


def sound(label: int, seed: int) -> Samples:
    rng = np.random.default_rng(seed)
    return tone(rng.uniform(150, 400)) if label == 0 else noise(seed)


def ask(app: Flask, questions: Sequence[Any], head: str | None = None) -> list[RowResult]:
    rows = [row(question, head=head) for question in questions]
    body = request_body.encode(PredictRequest(rows=rows, timeout_s=60))
    answer = app.test_client().post("/v1/predict", data=body)
    assert answer.status_code == 200, answer.text
    return PredictResponse.model_validate_json(answer.data).rows


def loaded_by(app: Flask) -> list[str]:
    """The names of the families that are loaded."""
    return [family["name"] for family in json.loads(app.test_client().get("/v1/models").text)["families"]]


def about(video: Video) -> LabelsInput:
    media = MediaRef(url=data_url(video, "video/mp4"))
    return LabelsInput(contents=(Content(modality=Modality.VIDEO, media=media),), labels=LABELS)


def features_of(app: Flask, videos: Sequence[Video]) -> list[Features]:
    results = ask(app, [FeaturesInput.of(about(video)) for video in videos])
    assert not [result.error for result in results if result.error]
    return [Features.model_validate(result.output) for result in results]


def learn(app: Flask, folder: Path, videos: Sequence[Video], labels: Sequence[int]) -> str:
    """Fit a head on annotated videos; the name of the head."""
    features = features_of(app, videos)
    examples = [
        Example.of(about(video), each, LabelTarget((label,)))
        for video, each, label in zip(videos, features, labels, strict=True)
    ]
    head = fit_head(examples, features[0].space)
    assert head is not None
    folders = AdapterFolders(folder / "adapters")
    number = len(list((folder / "adapters").glob("*"))) + 1

    def write(folder: Path) -> None:
        (folder / "label").mkdir()
        (folder / "label" / HEAD_FILE).write_bytes(head.to_bytes())

    folders.write(f"p1.h{number}", write)
    return f"p1.h{number}/label"


def accuracy(app: Flask, head: str, videos: Sequence[Video], labels: Sequence[int]) -> float:
    results = ask(app, [about(video) for video in videos], head)
    scores = [LabelScores.model_validate(result.output).probabilities for result in results]
    return float(np.mean([np.argmax(each) == label for each, label in zip(scores, labels, strict=True)]))


def accuracies(make_app: Make, tmp_path: Path, make_video: Callable[[int, int], Video]) -> tuple[float, float]:
    """The accuracy on unseen videos after some annotations, of the frames alone and of all parts.

    Args:
        make_video: of a label and a seed.
    """
    labels = [int(bit) for bit in np.random.default_rng(3).integers(0, 2, ANNOTATED + UNSEEN)]
    videos = [make_video(label, seed) for seed, label in enumerate(labels)]
    found = []
    for index, is_on in enumerate((False, True)):
        folder = tmp_path / str(index)
        app = make_app(data_dir=folder, video_sound=is_on, video_speech=is_on)
        head = learn(app, folder, videos[:ANNOTATED], labels[:ANNOTATED])
        found.append(accuracy(app, head, videos[ANNOTATED:], labels[ANNOTATED:]))
    return found[0], found[1]


@pytest.mark.long
def test_where_the_sound_decides_it_is_learned(make_app: Make, tmp_path: Path) -> None:
    alone, together = accuracies(make_app, tmp_path, lambda label, i: encoded(pictures("red", i), sound(label, i)))
    assert together >= max(0.9, alone + 0.2), (alone, together)


@pytest.mark.long
def test_where_words_decide_they_are_learned(make_app: Make, tmp_path: Path) -> None:
    words = ("the pump leaks again", "all is well today"), ("in hall", "at gate")

    def make(label: int, seed: int) -> Video:
        said = f"{words[0][label]} {words[1][seed % 2]} {seed % 5}"
        return encoded(pictures("red", seed), noise(seed), [said])

    alone, together = accuracies(make_app, tmp_path, make)
    assert together >= max(0.9, alone + 0.2), (alone, together)


@pytest.mark.long
def test_where_pictures_decide_nothing_is_lost(make_app: Make, tmp_path: Path) -> None:
    def make(label: int, seed: int) -> Video:
        said = [f"{seed * 7919 % 101} words"]
        return encoded(pictures(("red", "blue")[label], seed), sound(seed * 7919 % 2, seed), said)

    alone, together = accuracies(make_app, tmp_path, make)
    assert together >= alone - 0.02, (alone, together)


def test_what_a_video_lacks_is_left_out_for_this_video_alone(make_app: Make, tmp_path: Path) -> None:
    """A head that has learned from sounds answers videos without one, and with others that nobody can hear."""
    app = make_app()
    labels = [0, 1] * (ANNOTATED // 2)
    videos = [encoded(pictures("red", seed), sound(label, seed)) for seed, label in enumerate(labels)]
    head = learn(app, tmp_path, videos, labels)
    silent = encoded(pictures("red", 1), np.zeros(8000, np.float32))
    broken = bytearray(encoded(pictures("red", 1), noise(1, 2.0)))
    begin = broken.find(b"mdat") + 4
    sound_long = encoded(pictures("red", 1), np.concatenate([sound(0, 1)] * 8))
    unheard = [encoded(pictures("red", 1)), silent]
    for video in unheard:
        (features,) = features_of(app, [video])
        has_part = np.frombuffer(base64.b64decode(features.float16), "<f2").reshape(3, -1)[:, 0]
        assert has_part.tolist() == [1, 0, 0]
    heard_not = ask(app, [about(video) for video in unheard], head)
    neutral = [LabelScores.model_validate(result.output).probabilities for result in heard_not]
    assert neutral[0] == pytest.approx(neutral[1], abs=1e-4) and max(neutral[0]) < 0.9
    broken[begin:] = bytes(len(broken) - begin)
    no_frames = encoded([], sound(0, 1))
    answers = ask(app, [about(video) for video in (sound_long, bytes(broken), no_frames, videos[1])], head)
    assert LabelScores.model_validate(answers[0].output).probabilities[0] > 0.5
    assert answers[2].error is not None and answers[2].error.is_permanent and "no video" in answers[2].error.reason
    assert LabelScores.model_validate(answers[3].output).probabilities[1] > 0.5
    assert answers[1].output is not None or (answers[1].error is not None and answers[1].error.is_permanent)


def test_a_model_that_cannot_be_loaded_is_done_without(
    make_app: Make, models: dict[str, str], tmp_path: Path
) -> None:
    app = make_app(models={**models, "audio_text_encoder": f"local-dir:{tmp_path / 'nothing'}"})
    videos = [
        encoded(pictures(colour, seed), sound(0, seed), ["words"]) for seed, colour in enumerate(("red", "blue"))
    ]
    for features in features_of(app, videos):
        table = np.frombuffer(base64.b64decode(features.float16), "<f2").reshape(3, -1)
        assert table[:, 0].tolist() == [1, 0, 1]
    left_out = app.test_client().get("/metrics").text
    assert 'lorabel_left_out_parts_total{family="audio_text_encoder"} 2.0' in left_out


def test_a_head_that_counts_frames_alone_does_not_wait_for_what_is_heard(make_app: Make, tmp_path: Path) -> None:
    videos = [encoded(pictures(("red", "blue")[seed % 2], seed), noise(seed, 0.9)) for seed in range(4)]
    head = learn(make_app(), tmp_path, videos, [0, 1, 0, 1])
    app = make_app()
    assert accuracy(app, head, videos, [0, 1, 0, 1]) == 1
    assert loaded_by(app) == ["dual_encoder"]


def test_a_model_whose_loading_took_too_long_is_done_without(
    make_app: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: Any) -> None:
        raise TimeoutError("the hub does not answer")

    monkeypatch.setattr(AudioTextEncoder, "load", load)
    app = make_app()
    (features,) = features_of(app, [encoded(pictures("red", 1), sound(0, 1), ["words"])])
    table = np.frombuffer(base64.b64decode(features.float16), "<f2").reshape(3, -1)
    assert table[:, 0].tolist() == [1, 0, 1]


def test_what_is_said_outside_the_part_that_is_heard_is_written(make_app: Make, transcribed: list[int]) -> None:
    app = make_app(audio_max_s=1.0)
    said_at_first = np.concatenate([noise(1, 0.9), np.zeros(3 * RATE_HZ, np.float32)])
    ask(app, [TranscriptInput(contents=about(encoded(pictures("red", 1), said_at_first)).contents)])
    assert len(transcribed) == 1


def test_a_row_that_is_cancelled_frees_its_thread_without_a_word(
    make_app: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    is_asked, may_go_on = threading.Event(), threading.Event()
    predict = TextEncoder.predict

    def waiting(self: TextEncoder, *arguments: Any) -> Any:
        is_asked.set()
        assert may_go_on.wait(60)
        return predict(self, *arguments)

    monkeypatch.setattr(TextEncoder, "predict", waiting)
    app = make_app()
    first, second = (FeaturesInput.of(about(encoded(pictures("red", 1), None, [word]))) for word in "ab")
    request = PredictRequest(rows=[row(first)], timeout_s=60)
    (cancelled,) = app.extensions["engine"].submit(request)
    assert is_asked.wait(20)
    assert cancelled.cancel()
    may_go_on.set()
    assert ask(app, [second])[0].output is not None
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_a_transcript_is_written_once_its_model_can_be_loaded(
    make_app: Make, models: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, transcribed: list[int]
) -> None:
    monkeypatch.setattr(family_pool, "RETRY_AFTER_S", 0.0)
    folder = tmp_path / "speech"
    app = make_app(models={**models, "speech": f"local-dir:{folder}"})
    question = TranscriptInput(contents=about(encoded(pictures("red", 1), noise(1, 0.9))).contents)
    assert ask(app, [question])[0].output == WrittenText(text="", probability=1.0).model_dump()
    write_speech_model(folder)
    ask(app, [question])
    assert len(transcribed) == 1


def test_a_transcript_is_written_once_for_each_content(make_app: Make, transcribed: list[int]) -> None:
    app = make_app()
    video = encoded(pictures("red", 1), noise(1, 0.9))
    first, second = features_of(app, [video]), features_of(app, [video])
    assert first == second
    assert len(transcribed) == 1


def test_without_a_head_a_video_is_answered_from_its_frames(make_app: Make) -> None:
    video = encoded(pictures("red", 1), noise(1, 0.9))
    answers = []
    for is_on in (True, False):
        app = make_app(video_sound=is_on, video_speech=is_on)
        answers.append(ask(app, [about(video)])[0].output)
        assert loaded_by(app) == ["dual_encoder"]
    assert answers[0] == answers[1]


def test_a_text_about_a_video_is_asked_for_together_with_its_words(
    make_app: Make, models: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    prepare = Generator.prepare

    def noted(self: Generator, question: Any, fetch: Any) -> Any:
        read.append("".join(content.text or "" for content in question.contents))
        return prepare(self, question, fetch)

    monkeypatch.setattr(Generator, "prepare", noted)
    models = {**models, "generator": Generator.tiny(tmp_path / "generator")}
    app = make_app(models=models, generator_max_new_tokens=4)
    video = encoded(pictures("red", 1), noise(1), ["The pump leaks."])
    silent = encoded(pictures("red", 2), np.zeros(8000, np.float32))
    media = [about(file).contents[0] for file in (video, silent)]
    results = ask(app, [TextInput(contents=(content,), instruction="Describe it.") for content in media])
    assert not [result.error for result in results if result.error]
    assert sorted(read) == ["", "Said in the video: The pump leaks."]
    said = ask(app, [TranscriptInput(contents=(content,)) for content in media])
    assert [WrittenText.model_validate(result.output).text for result in said] == ["The pump leaks.", ""]
