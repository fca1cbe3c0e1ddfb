"""In the real Label Studio: what one annotation of a kind teaches shows in the next task of that kind, at once.

The demo's pictures with labels that do not describe them, so that the base model cannot know. Which label a kind
of picture has is chosen after the base model has answered, so that its answers are wrong.
"""

import sqlite3
import subprocess
import time
from base64 import b64encode
from contextlib import closing
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import httpx
import pytest

from lorabel.commands.connect import connect
from lorabel.demo.pictures import Picture
from lorabel.errors import LabelStudioError
from lorabel.label_studio.client import LabelStudio
from lorabel.labeling.regions import choices
from tests.e2e.label_studio_server import Server
from tests.e2e.lorabel_processes import PROGRAM, Lorabel, bare_environment

pytestmark = pytest.mark.e2e

GRADES = ("Grade A", "Grade B")
CONFIG = (
    '<View><Image name="image" value="$image"/><Choices name="grade" toName="image">'
    + "".join(f'<Choice value="{grade}"/>' for grade in GRADES)
    + "</Choices></View>"
)
KINDS = (("red", "star"), ("blue", "square"))
TASKS = 12
TIMEOUT_S = 20.0
POLL_S = 0.02


@dataclass(frozen=True)
class Shown:
    """A task as the labeling stream shows it."""

    task_id: int
    kind: int
    choice: str | None
    version: str | None


class Stream:
    """The labeling stream of a project, by Label Studio's own API, which the browser uses too."""

    def __init__(self, client: LabelStudio, project_id: int) -> None:
        self.client, self.project_id = client, project_id

    def next(self) -> Shown:
        task = self.client.call("GET", f"/api/projects/{self.project_id}/next", timeout_s=110.0)
        return self._shown(task)

    def open(self, task_id: int) -> Shown:
        """Open a task from the Data Manager."""
        return self._shown(self.client.call("GET", f"/api/tasks/{task_id}", timeout_s=110.0))

    def submit(self, shown: Shown, choice: str) -> float:
        """Submit the answer. Returns when, in seconds of `time.monotonic()`."""
        started = time.monotonic()
        result = [choices("grade", "image", [choice])]
        path = f"/api/tasks/{shown.task_id}/annotations/"
        self.client.call("POST", path, json={"result": result, "lead_time": 1.0})
        return started

    def _shown(self, task: dict[str, Any]) -> Shown:
        newest = max(task["predictions"], key=lambda prediction: prediction["id"], default=None)
        regions = newest["result"] if newest else []
        choice = regions[0]["value"]["choices"][0] if regions else None
        return Shown(task["id"], task["data"]["kind"], choice, newest and newest["model_version"])


def other_than(choice: str | None) -> str:
    return next(grade for grade in GRADES if grade != choice)


def picture(number: int) -> dict[str, Any]:
    kind = number % len(KINDS)
    file = BytesIO()
    Picture(*KINDS[kind], "solid", "large", seed=number).draw(96).save(file, "PNG")
    return {"image": f"data:image/png;base64,{b64encode(file.getvalue()).decode()}", "kind": kind}


def connected_project(lorabel: Lorabel, label_studio: Server, client: LabelStudio) -> Stream:
    project = {"title": "Heads", "label_config": CONFIG, "show_collab_predictions": True}
    project_id = client.call("POST", "/api/projects", json=project)["id"]
    client.call("POST", f"/api/projects/{project_id}/import", json=[{"data": picture(n)} for n in range(TASKS)])
    connect(lorabel.settings, label_studio.url, label_studio.token, project_id)
    return Stream(client, project_id)


def predicted_tasks(lorabel: Lorabel) -> float:
    """How many tasks Label Studio has asked the backend for so far."""
    lines = httpx.get(f"{lorabel.url}/metrics", trust_env=False).text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("lorabel_predictions_total"))


def wait_for(stream: Stream, version: str) -> Shown:
    """Ask for the next task until it is predicted by another version than `version`."""
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        shown = stream.next()
        if shown.version != version:
            return shown
        time.sleep(POLL_S)
    raise AssertionError(f"still predicted by {version} after {TIMEOUT_S:.0f} s: {shown}")


def wait_for_choice(stream: Stream, choice: str) -> Shown:
    """Ask for the next task until a head predicts it as this."""
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        shown = stream.next()
        if shown.choice == choice and "h" in str(shown.version):
            return shown
        time.sleep(POLL_S)
    raise AssertionError(f"not predicted as {choice} after {TIMEOUT_S:.0f} s: {shown}")


def test_one_annotation_of_each_kind_is_learned_at_once(
    label_studio: Server, lorabel_up: Lorabel, client: LabelStudio, capsys: pytest.CaptureFixture[str]
) -> None:
    stream = connected_project(lorabel_up, label_studio, client)
    base = f"p{stream.project_id}.v0"
    first = stream.next()
    assert (first.kind, first.version) == (0, base)
    truth = [other_than(first.choice)]
    stream.submit(first, truth[0])
    second = stream.next()
    assert (second.kind, second.version) == (1, base), "a single class is no reason to change anything"
    truth.append(other_than(second.choice))
    assert truth[0] != truth[1], "the base model tells the kinds apart, and gives each the name of the other"
    submitted_at = stream.submit(second, truth[1])

    third = wait_for(stream, base)
    seconds = time.monotonic() - submitted_at
    assert third.version == f"{base}.h1"
    asked = predicted_tasks(lorabel_up)
    assert (third.kind, third.choice) == (0, truth[0])
    assert stream.next() == third and stream.open(third.task_id) == third, "the stored prediction is shown again"
    client.call("GET", "/api/tasks", params={"project": stream.project_id, "fields": "all"})
    assert predicted_tasks(lorabel_up) == asked, "reopening and listing ask nothing"

    stream.submit(third, truth[0])
    fourth = wait_for(stream, third.version)
    assert (fourth.kind, fourth.choice) == (1, truth[1])
    with capsys.disabled():
        print(f"\n  {seconds:.2f} s from submit to the next task, predicted by {third.version} as {third.choice}")  # noqa: T201


def test_labels_that_were_renamed_in_label_studio_keep_what_they_learned(
    label_studio: Server, lorabel_up: Lorabel, client: LabelStudio
) -> None:
    """Label Studio lets labels be renamed that annotations have, and leaves the annotations as they are."""
    stream = connected_project(lorabel_up, label_studio, client)
    base = f"p{stream.project_id}.v0"
    truth = []
    for _ in KINDS:
        shown = stream.next()
        truth.append(other_than(shown.choice))
        stream.submit(shown, truth[-1])
    assert wait_for(stream, base).choice == truth[0] != truth[1]

    client.update_project(stream.project_id, label_config=CONFIG.replace('value="Grade', 'value="New grade'))
    for kind, answer in enumerate(truth):
        shown = wait_for_choice(stream, answer.replace("Grade", "New grade"))
        assert shown.kind == kind
        stream.submit(shown, str(shown.choice))


def test_bulk_runs_replace_what_older_heads_predicted_unless_it_is_annotated(
    label_studio: Server, lorabel_up: Lorabel, client: LabelStudio
) -> None:
    stream = connected_project(lorabel_up, label_studio, client)
    version = f"p{stream.project_id}.v0"
    for _ in KINDS:
        shown = stream.next()
        stream.submit(shown, other_than(shown.choice))
    version = str(wait_for(stream, version).version)
    preannotate(lorabel_up, stream.project_id)
    make_predictions_older(label_studio)
    stored = predictions_of(client, stream.project_id)
    *_, before_last, annotated = sorted(stored)
    (gone,), (parent,) = stored[before_last], stored[annotated]
    answer = {"result": [choices("grade", "image", [GRADES[0]])], "parent_prediction": parent}
    client.call("POST", f"/api/tasks/{annotated}/annotations/", json=answer)
    used = [version]
    for _ in range(3):
        used.append(str(wait_for(stream, used[-1]).version))
        preannotate(lorabel_up, stream.project_id)
        make_predictions_older(label_studio)
        stream.submit(stream.next(), GRADES[0])
    stored = predictions_of(client, stream.project_id)
    assert list(stored[before_last].values()) == used[-2:], "the newest, and the one that somebody may have open"
    assert list(stored[annotated].values()) == [used[0], *used[-2:]] and parent in stored[annotated]

    assert gone not in stored[before_last]
    with pytest.raises(LabelStudioError, match="object does not exist"):
        path = f"/api/tasks/{before_last}/annotations/"
        client.call("POST", path, json={**answer, "parent_prediction": gone})


def preannotate(lorabel: Lorabel, project_id: int) -> None:
    environment = {**bare_environment(), **lorabel.environment}
    subprocess.run([str(PROGRAM), "preannotate", str(project_id), "--all"], env=environment, check=True)


def make_predictions_older(label_studio: Server) -> None:
    """Let two hours pass, for Label Studio's predictions."""
    with (
        closing(sqlite3.connect(label_studio.data / "label_studio.sqlite3", timeout=TIMEOUT_S)) as database,
        database,
    ):
        database.execute("UPDATE prediction SET created_at = datetime(created_at, '-2 hours')")


def predictions_of(client: LabelStudio, project_id: int) -> dict[int, dict[int, str]]:
    """Task id -> prediction id -> model version, of what Label Studio has stored."""
    stored: dict[int, dict[int, str]] = {}
    predictions = client.call("GET", "/api/predictions/", params={"project": project_id})
    for prediction in sorted(predictions, key=lambda prediction: prediction["id"]):
        stored.setdefault(prediction["task"], {})[prediction["id"]] = prediction["model_version"]
    return stored
