"""Transcripts in the real Label Studio: written, corrected, learned, and right for unseen sentences."""

from collections.abc import Callable
from pathlib import Path

import pytest

from lorabel.families.transcription.conversion import convert
from lorabel.label_studio.client import LabelStudio
from lorabel.labeling.regions import Region, textarea
from lorabel.problems.binding import bind
from lorabel.text_contracts import WrittenText
from tests import whisper_tiny
from tests.e2e import test_every_problem_learns
from tests.e2e.courses import Course, LabeledTask, data_url
from tests.e2e.label_studio_server import Server
from tests.e2e.lorabel_processes import Lorabel
from tests.e2e.test_every_problem_learns import NEVER, annotate, predictions, train

pytestmark = [pytest.mark.e2e, pytest.mark.long, pytest.mark.timeout(2400)]

CONFIG = (
    '<View><Audio name="audio" value="$audio"/><Header value="Provide Transcription"/>'
    '<TextArea name="transcript" toName="audio" rows="4" editable="true" maxSubmissions="1"/></View>'
)
CORRECTED = 16


def _tasks() -> list[LabeledTask]:
    return [
        (
            {"audio": data_url(whisper_tiny.spoken(sentence), "audio/wav")},
            [textarea("transcript", "audio", [sentence])],
        )
        for sentence in whisper_tiny.sentences_with_names()
    ]


def test_the_word_error_rate_of_unseen_sentences_is_halved_by_16_corrections(
    start_lorabel: Callable[..., Lorabel],
    label_studio: Server,
    client: LabelStudio,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Invented names, of which the model has never heard."""
    monkeypatch.setattr(test_every_problem_learns, "TIMEOUT_S", 1800.0)
    convert(whisper_tiny.folder(), tmp_path / "whisper")
    variables = {"MODEL_SPEECH": f"local-dir:{tmp_path / 'whisper'}", "PRECISION": "float32", "FAMILIES": "speech"}
    unseen = len(whisper_tiny.sentences_with_names()) - CORRECTED
    course = Course(CONFIG, _tasks, lambda _: variables, {"transcript": "word_accuracy"}, unseen)
    lorabel = start_lorabel({**variables, "TRAIN_AFTER_ANNOTATIONS": NEVER, "TRAIN_MIN_ANNOTATIONS": NEVER})
    project_id, before = annotate(client, "transcripts", course, lorabel, label_studio)
    run, versions = train(lorabel, project_id)
    assert versions and versions[0]["state"] == "live", run["decision"]
    after = predictions(client, project_id, list(before), versions[0]["version"])
    rates = [_word_error_rate(course, list(results.values())) for results in (before, after)]
    print(f"\n  word error rate of {unseen} unseen sentences: {rates[0]:.2f} -> {rates[1]:.2f}")  # noqa: T201
    assert rates[0] > 0.2 and rates[1] <= 0.5 * rates[0]


def _word_error_rate(course: Course, results: list[list[Region]]) -> float:
    (problem,) = bind(course.label_config).bindings
    tasks = course.tasks[-course.unseen :]
    targets = [problem.target(truth, data) for data, truth in tasks]
    texts = ["".join(region["value"]["text"][0] for region in result) for result in results]
    outputs = [WrittenText(text=text, probability=1.0) for text in texts]
    return float(problem.metrics(targets, outputs).values["word_error_rate"])
