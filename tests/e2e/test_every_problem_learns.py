"""Each kind of labeling in the real Label Studio: predict, annotate, train, promote, and predict better.

The tasks are in `tests/e2e/courses`. One Lorabel with the base models of all courses learns them all.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import httpx
import pytest

from lorabel.commands.connect import connect
from lorabel.database.versions import without_heads
from lorabel.demo.predicting_and_training import predict
from lorabel.errors import MissingTargetError
from lorabel.label_studio.client import LabelStudio
from lorabel.problems._answers import regions_of
from lorabel.problems.binding import bind
from tests.e2e import courses
from tests.e2e.courses import Course
from tests.e2e.label_studio_server import Server
from tests.e2e.lorabel_processes import Lorabel

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

# A fitted head answers these, and LoRA could change none of its answers: a run trains nothing and says so.
BY_HEAD_ALONE = ("entities", "ranking", "rating")
# So are these, by moments that are never exactly those of the annotators.
SEGMENTS = ("sound_segments", "timelines")
BETTER_BY = 0.15
TIMEOUT_S = 600.0
NEVER = str(10**6)


@pytest.fixture(scope="module")
def shared_lorabel(start_lorabel: Callable[..., Lorabel], tmp_path_factory: pytest.TempPathFactory) -> Lorabel:
    """A Lorabel that trains only on request, so that each course is one run."""
    return start_lorabel(_variables(courses.names(), tmp_path_factory))


@pytest.fixture(scope="module")
def lorabel_beside_heads(
    start_lorabel: Callable[..., Lorabel], tmp_path_factory: pytest.TempPathFactory
) -> Lorabel:
    """One whose runs train only what a head can use, as by default."""
    variables = _variables((*BY_HEAD_ALONE, *SEGMENTS), tmp_path_factory)
    return start_lorabel({**variables, "LORA_TOWERS": "auto"})


def _variables(names: Sequence[str], folders: pytest.TempPathFactory) -> dict[str, str]:
    variables = {"TRAIN_AFTER_ANNOTATIONS": NEVER, "TRAIN_MIN_ANNOTATIONS": NEVER, "FAMILIES": ""}
    for name in names:
        variables |= courses.load(name).variables(folders.mktemp(name))
    return variables


@pytest.mark.long
@pytest.mark.parametrize("name", courses.names())
def test_a_run_is_promoted_and_the_held_out_tasks_are_answered_better(
    name: str, shared_lorabel: Lorabel, label_studio: Server, client: LabelStudio
) -> None:
    course = courses.load(name)
    project_id, before = annotate(client, name, course, shared_lorabel, label_studio)
    run, versions = train(shared_lorabel, project_id)
    assert versions and versions[0]["state"] == "live", run["decision"]
    live = versions[0]
    for control_tag, figure in course.primary.items():
        candidate, former = live["metrics"]["candidate"][control_tag], live["metrics"]["live"][control_tag]
        assert candidate[figure] > former[figure], f"{control_tag}: {figure}, {former} -> {candidate}"
    after = predictions(client, project_id, list(before), live["version"])
    assert sum(map(bool, after.values())) > len(before) / 2, "most unseen tasks are predicted by the new version"


@pytest.mark.long
@pytest.mark.parametrize("name", BY_HEAD_ALONE)
def test_a_head_answers_unseen_tasks_rightly_and_a_run_trains_nothing_beside_it(
    name: str, lorabel_beside_heads: Lorabel, label_studio: Server, client: LabelStudio
) -> None:
    course = courses.load(name)
    project_id, before = annotate(client, name, course, lorabel_beside_heads, label_studio)
    run, versions = train(lorabel_beside_heads, project_id)
    assert [version["version"] for version in versions] == [f"p{project_id}.v0"], (
        "no name changes without an answer"
    )
    assert "the head answers; LoRA would change none of its answers" in run["decision"]
    after = predictions(client, project_id, list(before), f"p{project_id}.v0")
    right_before, right_after = (right_answers(course, list(answers.values())) for answers in (before, after))
    assert right_before < right_after >= len(before) / 2, f"{right_before}, then {right_after} of {len(before)}"


@pytest.mark.long
@pytest.mark.parametrize("name", SEGMENTS)
def test_a_head_finds_segments_in_unseen_recordings_and_a_run_trains_nothing_beside_it(
    name: str, lorabel_beside_heads: Lorabel, label_studio: Server, client: LabelStudio
) -> None:
    course = courses.load(name)
    project_id, before = annotate(client, name, course, lorabel_beside_heads, label_studio)
    run, _ = train(lorabel_beside_heads, project_id)
    assert "the head answers; LoRA would change none of its answers" in run["decision"]
    after = predictions(client, project_id, list(before), f"p{project_id}.v0")
    f1_before, f1_after = (segment_f1(course, list(answers.values())) for answers in (before, after))
    assert f1_after > f1_before + BETTER_BY, f"{f1_before}, then {f1_after}"


def segment_f1(course: Course, results: list[list[Any]]) -> float:
    """F1 of the segments that are predicted of the unseen tasks."""
    (problem,) = bind(course.label_config).bindings
    tasks = course.tasks[-course.unseen :]
    targets = [problem.target(regions_of(truth), data) for data, truth in tasks]
    answers = [problem.target(regions_of(result), data) for (data, _), result in zip(tasks, results, strict=True)]
    metrics = problem.metrics(targets, [problem.perfect_output(answer) for answer in answers])
    return float(metrics.values["f1"])


def right_answers(course: Course, results: list[list[Any]]) -> int:
    """How many of the unseen tasks are answered exactly as the course says."""
    (problem,) = bind(course.label_config).bindings
    count = 0
    for (data, truth), result in zip(course.tasks[-course.unseen :], results, strict=True):
        try:
            count += problem.target(regions_of(result), data) == problem.target(regions_of(truth), data)
        except MissingTargetError:
            """Nothing is predicted."""
    return count


def annotate(
    client: LabelStudio, name: str, course: Course, shared_lorabel: Lorabel, label_studio: Server
) -> tuple[int, dict[int, list[Any]]]:
    """Annotate all tasks of a new project but the unseen ones.

    Returns:
        Its id, and what was predicted of the unseen tasks before.
    """
    project_id = _create(client, name, course)
    connect(shared_lorabel.settings, label_studio.url, label_studio.token, project_id)
    tasks = [task.task_id for task in client.tasks(project_id)]
    unseen = tasks[-course.unseen :]
    before = predictions(client, project_id, unseen, f"p{project_id}.v0")
    assert any(before.values()) != course.is_silent_before
    for task_id, (_, result) in zip(tasks[: -course.unseen], course.tasks, strict=False):
        client.call("POST", f"/api/tasks/{task_id}/annotations/", json={"result": result})
    return project_id, before


def _create(client: LabelStudio, name: str, course: Course) -> int:
    project = client.call("POST", "/api/projects/", json={"title": name, "label_config": course.label_config})
    data = [{"data": data} for data, _ in course.tasks]
    client.call("POST", f"/api/projects/{project['id']}/import", json=data, timeout_s=60.0)
    return int(project["id"])


def predictions(client: LabelStudio, project_id: int, tasks: list[int], version: str) -> dict[int, list[Any]]:
    """Task id -> the result that this version predicts, by the Data Manager's "Retrieve Predictions"."""
    results = {
        task_id: prediction["result"]
        for task_id, prediction in predict(client, project_id, tasks).items()
        if without_heads(prediction["model_version"]) == version
    }
    return {task_id: results.get(task_id, []) for task_id in tasks}


def train(shared_lorabel: Lorabel, project_id: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Start a run by the REST API and wait for its end.

    Returns:
        Its record, and those of the versions, the newest first.
    """
    base = f"{shared_lorabel.url}/api/v1/projects/{project_id}"
    deadline = time.monotonic() + TIMEOUT_S
    with httpx.Client(trust_env=False) as client:
        client.post(f"{base}/train").raise_for_status()
        while time.monotonic() < deadline:
            (run,) = client.get(f"{base}/runs").json()["runs"]
            if run["state"] in ("finished", "failed"):
                assert run["state"] == "finished", run["error"]
                return run, client.get(f"{base}/versions").json()["versions"]
            time.sleep(0.3)
    raise AssertionError(f"the run of project {project_id} did not end in {TIMEOUT_S:.0f} s: {run}")
