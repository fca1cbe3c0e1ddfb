"""What is kept of an evaluation: which tasks, for how many versions, and with what masked."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

from lorabel.contracts import LabelScores, LabelTarget
from lorabel.database import projects, task_outcomes
from lorabel.database.store import Store
from lorabel.database.tables import Annotation, DeletedTask, ModelVersion, TaskOutcome
from lorabel.evaluation.metrics import Metrics
from lorabel.labeling.bit_masks import decode, runs_of
from lorabel.mask_contracts import Mask, Masks, MasksTarget
from lorabel.redaction import Redactor
from lorabel.settings import Settings
from lorabel.text_contracts import TextTarget, WrittenText
from tests.workers.kept_data import version
from workers import outcomes
from workers.acceptance import JudgedTask, Judgement
from workers.attempt import Attempt
from workers.outcomes import make_outcomes
from workers.selection import Selection
from workers.services import Services

PROJECT = 1
CONFIG = (
    '<View><Text name="text" value="$text"/><Choices name="label" toName="text">'
    '<Choice value="order"/><Choice value="invoice"/></Choices></View>'
)
WRITTEN = '<View><Text name="text" value="$text"/><TextArea name="label" toName="text"/></View>'
BRUSHED = (
    '<View><Image name="image" value="$image"/><BrushLabels name="label" toName="image">'
    '<Label value="car"/></BrushLabels></View>'
)
SCORES = (LabelScores(probabilities=(0.9, 0.1)), LabelScores(probabilities=(0.2, 0.8)))


def attempt(task_ids: range) -> dict[str, Attempt]:
    """Live is wrong about every task."""
    tested = [JudgedTask(task_id, LabelTarget((1,)), SCORES[1], SCORES[0]) for task_id in task_ids]
    metrics = Metrics("accuracy", {"accuracy": 1.0})
    return {"label": Attempt(None, {}, judgement=Judgement(True, "better", metrics, metrics, tested=tested))}


@pytest.fixture
def services(settings: Settings, store: Store) -> Any:
    projects.upsert(store, PROJECT, label_config=CONFIG)
    services = Services.open(settings)
    yield services
    services.close()


def made(services: Services, number: int, task_ids: range) -> tuple[ModelVersion, list[TaskOutcome]]:
    with services.store.read() as session:
        project = projects.get(session, PROJECT)
    made_version = version(number, [], number - 1, "live")
    annotations = [Annotation(project_id=PROJECT, id=1, task_id=1, task_data={"text": "of anna@example.com"})]
    rows = make_outcomes(services, project, made_version, attempt(task_ids), Selection(annotations))
    return made_version, rows


def test_of_a_large_evaluation_the_same_tasks_are_kept_for_every_version(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outcomes, "MOST_TASKS", 20)
    first, second = ({row.task_id for row in made(services, number, range(200))[1]} for number in (1, 2))
    assert first == second and len(first) == 20
    # Not the oldest or newest, but drawn from all.
    assert min(first) < 60 and max(first) > 140


def test_what_is_personal_is_masked(services: Services) -> None:
    projects.upsert(services.store, PROJECT, label_config=WRITTEN)
    masking = replace(services, redactor=Redactor(["email"], {}))
    right, wrong = (WrittenText(text=text, probability=0.9) for text in ("to anna@example.com", "to nobody"))
    tested = [JudgedTask(1, TextTarget(text="to anna@example.com"), right, wrong)]
    metrics = Metrics("rouge_l", {"rouge_l": 1.0})
    attempts = {"label": Attempt(None, {}, judgement=Judgement(True, "better", metrics, metrics, tested=tested))}
    with services.store.read() as session:
        project = projects.get(session, PROJECT)
    (row,) = make_outcomes(masking, project, version(1, [], 0, "live"), attempts, Selection([]))
    assert row.result is not None and row.live_result is not None
    assert row.result[0]["value"]["text"] == ["to xxxx@xxxxxxx.xxx"]
    assert row.value == 1.0 and row.live_value is not None and row.live_value < 1.0
    assert "score" not in row.result[0] and "id" not in row.result[0]


def test_long_answers_are_not_kept_but_their_values_are(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outcomes, "LONGEST_RESULT", 10)
    _, (row,) = made(services, 1, range(1, 2))
    assert (row.result, row.value) == (None, 1.0)


def test_masks_of_long_answers_are_kept_with_fewer_pixels(services: Services) -> None:
    projects.upsert(services.store, PROJECT, label_config=BRUSHED)
    y, x = np.mgrid[:1200, :1600]
    circle = np.hypot(x - 800, y - 600) < 500
    mask = Mask(label=0, runs=runs_of(circle), probability=0.9)
    right, wrong = (Masks(masks=found, width=1600, height=1200, threshold=0.5) for found in ((mask,), ()))
    tested = [JudgedTask(1, MasksTarget(((mask.runs, 0),), 1600, 1200), right, wrong)]
    metrics = Metrics("mask_map_50", {"mask_map_50": 1.0})
    attempts = {"label": Attempt(None, {}, judgement=Judgement(True, "better", metrics, metrics, tested=tested))}
    with services.store.read() as session:
        project = projects.get(session, PROJECT)
    (row,) = make_outcomes(services, project, version(1, [], 0, "live"), attempts, Selection([]))
    assert row.result is not None and len(json.dumps(row.result)) <= outcomes.LONGEST_RESULT
    (region,) = row.result
    kept = decode(region["value"]["rle"], region["original_width"], region["original_height"])
    assert kept.shape == (150, 200) and (kept == circle[::8, ::8]).mean() > 0.97
    assert region["value"]["brushlabels"] == ["car"]


def test_outcomes_of_the_newest_versions_are_kept_and_none_of_deleted_tasks(
    services: Services, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_outcomes, "KEPT_VERSIONS", 2)
    with store.write() as session:
        session.add(DeletedTask(project_id=PROJECT, task_id=2))
    for number in (1, 2, 4):
        made_version, rows = made(services, number, range(1, 4))
        with store.write() as session:
            session.add(made_version)
            task_outcomes.write(session, made_version, rows)
    with store.read() as session:
        kept = session.execute(select(TaskOutcome.number, TaskOutcome.task_id).order_by(TaskOutcome.number))
        assert sorted(map(tuple, kept)) == [(2, 1), (2, 3), (4, 1), (4, 3)]


def test_a_task_that_cannot_be_compared_is_left_out_and_the_run_goes_on(
    services: Services, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = outcomes._outcome

    def fail(problem: Any, tested: JudgedTask, *others: Any) -> TaskOutcome:
        if tested.task_id != 2:
            raise OverflowError("int too large to convert to float")
        return real(problem, tested, *others)

    monkeypatch.setattr(outcomes, "_outcome", fail)
    _, rows = made(services, 1, range(1, 4))
    assert [row.task_id for row in rows] == [2]
    assert [record.getMessage() for record in caplog.records] == [
        "tasks of 'label' are not set side by side, for example 1"
    ]
