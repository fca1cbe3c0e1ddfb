"""EXPLAIN_IN: bulk runs write explanations beside the predictions."""

from dataclasses import replace
from typing import Any

import pytest

from lorabel.database import bulk_runs, projects
from lorabel.database.tables import RunState
from lorabel.settings import Settings
from tests.backend.fake_model_server import FakeModelServer
from tests.lorabel.fake_label_studio import FakeLabelStudio
from workers import preannotate
from workers.services import Services

pytestmark = pytest.mark.slow

CONFIG = """<View><Text name="text" value="$text"/>
<Choices name="label" toName="text"><Choice value="red"/><Choice value="blue"/></Choices>
<TextArea name="lorabel_why" toName="text"/></View>"""
TEXTS = ("a blue pump", "a red door", "a blue river")


@pytest.fixture
def explaining(services: Services, label_studio: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch) -> Services:
    """Services as if the worker had started with EXPLAIN_IN, and a project with texts."""
    settings = Settings(**services.settings.model_dump(exclude_unset=True), explain_in="textarea")
    explaining = replace(services, settings=settings)
    monkeypatch.setattr(Services, "current", lambda: explaining)
    projects.upsert(services.store, 1, label_config=CONFIG)
    label_studio.tasks += [
        {
            "id": number,
            "data": {"text": text},
            "annotations": [],
            "predictions": [],
            "total_annotations": 0,
            "cancelled_annotations": 0,
        }
        for number, text in enumerate(TEXTS, 1)
    ]
    return explaining


def run_over_all(services: Services) -> Any:
    run = bulk_runs.request(services.store, 1, "test")
    preannotate.preannotate(run.id)
    with services.store.read() as session:
        return bulk_runs.get(session, 1, run.id)


def written(label_studio: FakeLabelStudio) -> list[dict[str, Any]]:
    """By task the values of the prediction's regions, by control tag."""
    return [
        {region["from_name"]: region["value"] for region in prediction["result"]}
        for task in label_studio.tasks
        for prediction in task["predictions"]
    ]


def test_a_bulk_run_writes_why_beside_each_prediction(explaining: Services, label_studio: FakeLabelStudio) -> None:
    run = run_over_all(explaining)
    assert (run.state, run.done, run.failed) == (RunState.FINISHED, 3, 0)
    colours = [text.split()[1] for text in TEXTS]
    assert written(label_studio) == [
        {
            "label": {"choices": [colour]},
            "lorabel_why": {"text": [f'label: {colour}. For it: "{colour}" +1.0.']},
        }
        for colour in colours
    ]


def test_a_bulk_run_whose_explanations_fail_writes_the_predictions(
    explaining: Services,
    label_studio: FakeLabelStudio,
    model_server: FakeModelServer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    model_server.status, model_server.fails_from = 500, 1  # the first request predicts all tasks
    run = run_over_all(explaining)
    assert (run.state, run.done, run.failed) == (RunState.FINISHED, 3, 0)
    assert [[*values] for values in written(label_studio)] == [["label"]] * 3
    assert f"bulk run {run.id}: explanations: {{'failed': 3}}" in caplog.text


def test_what_a_rule_removed_is_kept_of_each_few_tasks_that_were_written(
    explaining: Services, label_studio: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before, it was kept after the last of a page's tasks only, and never if one of them could not be written."""
    monkeypatch.setattr(preannotate, "EXPLAINED_TOGETHER", 1)
    kept: list[list[int]] = []
    monkeypatch.setattr(preannotate.rule_effects, "write", lambda *given: kept.append([*given[-1]]))
    write, count = preannotate._write, iter(range(10))

    def write_two(*given: Any) -> None:
        if next(count) == 2:
            raise ValueError("a fault of ours in the third task")
        write(*given)

    monkeypatch.setattr(preannotate, "_write", write_two)
    run = run_over_all(explaining)
    assert run.state == RunState.FAILED
    assert kept == [[1], [2]] and len(written(label_studio)) == 2


def test_without_the_setting_nothing_is_explained(
    services: Services, explaining: Services, label_studio: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Services, "current", lambda: services)
    run_over_all(services)
    assert [[*values] for values in written(label_studio)] == [["label"]] * 3
