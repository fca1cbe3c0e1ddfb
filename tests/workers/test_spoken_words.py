"""A run learns from the prompts of predictions: with what the model server says is said in videos."""

from pathlib import Path
from typing import Any

import pytest
from werkzeug.serving import make_server

from lorabel.contracts import Content, Input, MediaRef, Modality
from lorabel.inference.messages import PredictRequest
from lorabel.settings import Settings
from lorabel.text_contracts import TextInput, TextTarget
from model_server.app import create_app
from tests.e2e.courses import data_url
from tests.heard_videos import encoded
from tests.serving import serving
from tests.video_files import brightening
from workers.attempt import TrainingContext
from workers.examples import TrainingExample, TrainingPlan
from workers.services import Services
from workers.spoken_words import with_spoken_words

PROJECT = 7
CONTEXT = TrainingContext(None, lambda media: media, project_id=PROJECT)
BROKEN = b"no video"


def plan(*files: bytes) -> TrainingPlan:
    examples = []
    for number, file in enumerate(files):
        video = Content(modality=Modality.VIDEO, media=MediaRef(url=data_url(file, "video/mp4")))
        question = TextInput(contents=(video,), instruction="Describe it.")
        examples.append(TrainingExample((number,), number, question, TextTarget("A pump."), 0, True))
    return TrainingPlan(examples[:-1], examples[-1:], {}, {})


def texts(question: Input) -> list[str | None]:
    return [content.text for content in question.contents if content.modality == Modality.TEXT]


@pytest.mark.slow
@pytest.mark.parametrize("is_running", [True, False])
def test_the_words_of_each_video_are_in_its_question(
    is_running: bool, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a model server, the run goes on without the words. Files are fetched for the project of the run."""
    app = create_app(settings.model_copy(update={"families": "", "data_dir": tmp_path, "device": "cpu"}))
    engine, projects = app.extensions["engine"], set[int]()
    submit = engine.submit

    def noted(request: PredictRequest, *rest: Any) -> Any:
        projects.add(request.project)
        return submit(request, *rest)

    monkeypatch.setattr(engine, "submit", noted)
    pictures = brightening(8)
    server = make_server("127.0.0.1", 0, app, threaded=True)
    port = server.port if is_running else 9
    services = Services.open(settings.model_copy(update={"model_server_url": f"http://127.0.0.1:{port}"}))
    said = encoded(pictures, subtitles=["The pump leaks."])
    with serving(server):
        found = with_spoken_words(services, plan(said, encoded(pictures), BROKEN, said), CONTEXT)
    services.close()
    engine.close()
    assert projects == ({PROJECT} if is_running else set())
    expected = ["Said in the video: The pump leaks."] if is_running else []
    assert [texts(example.question) for example in found.train] == [expected, [], []]
    assert [texts(example.question) for example in found.held_out] == [expected]
