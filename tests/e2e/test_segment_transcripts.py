"""Segments with texts in the real Label Studio: found, written, corrected, learned, right for unseen sounds."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from lorabel.commands.connect import connect
from lorabel.demo.predicting_and_training import predict
from lorabel.families.audio_text_encoder import AudioTextEncoder
from lorabel.families.transcription.conversion import convert
from lorabel.label_studio.client import LabelStudio
from lorabel.labeling.regions import Region, about_segment, sound_segment, textarea
from lorabel.problems.binding import bind
from lorabel.text_contracts import SegmentTranscripts, WrittenText
from tests import whisper_tiny
from tests.audio_files import encoded, noise
from tests.e2e import test_every_problem_learns
from tests.e2e.courses import Course, LabeledTask, data_url
from tests.e2e.label_studio_server import Server
from tests.e2e.lorabel_processes import Lorabel
from tests.e2e.test_every_problem_learns import NEVER, annotate, predictions, train
from tests.spoken_scenes import scene

pytestmark = [pytest.mark.e2e, pytest.mark.long, pytest.mark.timeout(2400)]

CONFIG = (
    '<View><Labels name="label" toName="audio"><Label value="Ann"/><Label value="Bob"/></Labels>'
    '<Audio name="audio" value="$audio"/><TextArea name="transcript" toName="audio" rows="2" editable="true" '
    'perRegion="true" required="true"/></View>'
)
# Of espeak-ng.
VOICES = {"Ann": "en+f3", "Bob": "en"}
# Sounds of two sentences each: 16 sentences are corrected, and 8 of other sounds are not.
UNSEEN = 4
TIMEOUT_S = 180.0


def speech(sentences: Sequence[str], speakers: Sequence[str]) -> tuple[bytes, list[Region]]:
    """A WAV file in which sentences are spoken, and its right result."""
    file, spans, length_s = scene(sentences, [VOICES[speaker] for speaker in speakers])
    result: list[Region] = []
    for number, (span, speaker, sentence) in enumerate(zip(spans, speakers, sentences, strict=True)):
        segment = {**sound_segment("label", "audio", span, length_s, [speaker]), "id": f"segment{number}"}
        result += [segment, about_segment(segment, textarea("transcript", "audio", [sentence]))]
    return file, result


def tasks() -> list[LabeledTask]:
    sentences, made = whisper_tiny.sentences_with_names(), []
    for first in range(0, len(sentences), 2):
        speakers = ("Ann", "Bob") if first % 4 else ("Bob", "Ann")
        file, result = speech(sentences[first : first + 2], speakers)
        made.append(({"audio": data_url(file, "audio/wav")}, result))
    return made


def variables(folder: Path) -> dict[str, str]:
    convert(whisper_tiny.folder(), folder / "whisper")
    torch.manual_seed(0)
    (folder / "clap").mkdir()
    return {
        "MODEL_SPEECH": f"local-dir:{folder / 'whisper'}",
        "MODEL_AUDIO_TEXT_ENCODER": AudioTextEncoder.tiny(folder / "clap"),
        "PRECISION": "float32",
        "FAMILIES": "speech,audio_text_encoder",
        "TRAIN_AFTER_ANNOTATIONS": NEVER,
        "TRAIN_MIN_ANNOTATIONS": NEVER,
    }


@pytest.fixture(scope="module")
def lorabel(start_lorabel: Callable[..., Lorabel], tmp_path_factory: pytest.TempPathFactory) -> Lorabel:
    return start_lorabel(variables(tmp_path_factory.mktemp("models")))


def test_speakers_are_told_apart_and_word_errors_are_halved_in_unseen_sounds(
    lorabel: Lorabel, label_studio: Server, client: LabelStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two speakers, and invented names of which the model has never heard."""
    monkeypatch.setattr(test_every_problem_learns, "TIMEOUT_S", 1800.0)
    course = Course(CONFIG, tasks, lambda _: {}, {"transcript": "word_accuracy"}, UNSEEN)
    project_id, before = annotate(client, "segment_transcripts", course, lorabel, label_studio)
    run, versions = train(lorabel, project_id)
    assert versions and versions[0]["state"] == "live", run["decision"]
    after = predictions(client, project_id, list(before), versions[0]["version"])
    (f1_before, errors_before), (f1_after, errors_after) = (
        _figures(course, list(results.values())) for results in (before, after)
    )
    print(  # noqa: T201
        f"\n  {UNSEEN} unseen sounds: F1 of segments {f1_before:.2f} -> {f1_after:.2f}, "
        f"word error rate {errors_before:.2f} -> {errors_after:.2f}"
    )
    assert f1_after > f1_before + 0.15
    assert errors_before > 0.2 and errors_after <= 0.5 * errors_before
    for result in after.values():
        _check_pairs(result)


def test_drawn_segments_get_their_texts_and_what_nobody_says_has_none(
    lorabel: Lorabel, label_studio: Server, client: LabelStudio
) -> None:
    files = [
        speech(whisper_tiny.SENTENCES, ("Bob", "Ann", "Bob")),
        (encoded(noise(0, 3.0)), []),
        (b"no sound", []),
    ]
    project = client.call("POST", "/api/projects/", json={"title": "drawn", "label_config": CONFIG})
    data = [{"data": {"audio": data_url(file, "audio/wav")}} for file, _ in files]
    client.call("POST", f"/api/projects/{project['id']}/import", json=data, timeout_s=60.0)
    connect(lorabel.settings, label_studio.url, label_studio.token, project["id"])
    spoken, noisy, broken = [task.task_id for task in client.tasks(project["id"])]
    predicted = predict(client, project["id"], [spoken, noisy, broken])
    assert predicted[noisy]["result"] == [] and not predicted.get(broken, {}).get("result")
    assert len(predicted[spoken]["result"]) == 6
    _check_pairs(predicted[spoken]["result"])

    # The annotator has drawn two segments, and has written the text of one of them, which is another one.
    first, first_text, second, *_ = files[0][1]
    first_text = {**first_text, "value": {**first_text["value"], "text": ["Something else."]}}
    drawn = [first, first_text, second]
    client.call("POST", f"/api/tasks/{spoken}/annotations/", json={"result": drawn})
    deadline = time.monotonic() + TIMEOUT_S
    prediction = predicted[spoken]
    while len(prediction["result"]) != 4:
        assert time.monotonic() < deadline, prediction
        time.sleep(1.0)
        # Label Studio asks for no other prediction of the same version while it has one.
        client.call("DELETE", f"/api/predictions/{prediction['id']}/")
        prediction = predict(client, project["id"], [spoken])[spoken]
    result = prediction["result"]
    by_id = {region["id"]: region["value"] for region in result if region["from_name"] == "transcript"}
    assert by_id[first["id"]]["text"] == ["Something else."]
    assert by_id[second["id"]]["text"] == [whisper_tiny.SENTENCES[1]]
    kept = [region["value"] for region in result if region["from_name"] == "label"]
    assert kept == [first["value"], second["value"]]


def _check_pairs(result: Sequence[Region]) -> None:
    """Each text has the id, the place and the sound's length of a segment with a label."""
    segments = {region["id"]: region for region in result if region["from_name"] == "label"}
    texts = {region["id"]: region for region in result if region["from_name"] == "transcript"}
    assert segments.keys() == texts.keys() and len(segments) == len(result) / 2
    for id_, text in texts.items():
        segment = segments[id_]
        assert text["original_length"] == segment["original_length"]
        assert [text["value"][key] for key in ("start", "end", "channel")] == [
            segment["value"][key] for key in ("start", "end", "channel")
        ]
        assert 0 <= text["score"] <= 1 and 0 <= segment["score"] <= 1


def _figures(course: Course, results: Sequence[Sequence[Region]]) -> tuple[float, float]:
    """F1 of the segments, and the word error rate of the texts at the places of the right ones."""
    segments, texts = bind(course.label_config).bindings
    unseen = course.tasks[-course.unseen :]
    targets, outputs, spoken, written = [], [], [], []
    for (data, truth), result in zip(unseen, results, strict=True):
        targets.append(segments.target(truth, data))
        outputs.append(segments.perfect_output(segments.target(list(result), data)))
        spoken.append(texts.target(truth, data))
        written.append(_nearest(spoken[-1].segments, result))
    f1 = segments.metrics(targets, outputs).values["f1"]
    return float(f1), float(texts.metrics(spoken, written).values["word_error_rate"])  # type: ignore[arg-type]


def _nearest(spans: Sequence[tuple[float, float]], result: Sequence[Region]) -> SegmentTranscripts:
    """The texts of a prediction that are about these parts of the sound."""
    texts: dict[tuple[float, float], str] = {}
    for region in result:
        value: dict[str, Any] = region["value"]
        if region["from_name"] == "transcript":
            span = max(spans, key=lambda span: min(span[1], value["end"]) - max(span[0], value["start"]))
            texts[span] = f"{texts.get(span, '')} {value['text'][0]}"
    return SegmentTranscripts(
        answers=tuple(WrittenText(text=texts.get(span, ""), probability=1.0) for span in spans)
    )
