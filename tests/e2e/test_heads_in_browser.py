"""In the labeling stream in a browser: what one annotation teaches is ticked in the next task of that kind.

The tasks are those of `test_heads`: two kinds of pictures in turn, whose labels are chosen after the base model
has answered, so that its answers are wrong.
"""

import time
from pathlib import Path

import pytest
from selenium.webdriver import Chrome

from lorabel.label_studio.client import LabelStudio
from tests.e2e.label_studio_server import Server
from tests.e2e.lorabel_processes import Lorabel
from tests.e2e.test_browser import LabelingStream
from tests.e2e.test_heads import TIMEOUT_S, connected_project, other_than

pytestmark = pytest.mark.e2e


def correct(stream: LabelingStream, kind: int, truth: dict[int, str]) -> float:
    """Choose another answer than the ticked one and submit it. Returns when, in seconds of `time.monotonic()`."""
    (ticked,) = stream.wait_for_choice()
    truth[kind] = other_than(ticked)
    stream.choose(truth[kind])
    assert stream.wait_for_choice() == [truth[kind]]
    return submit(stream)


def submit(stream: LabelingStream) -> float:
    clicked_at = time.monotonic()
    stream.submit()
    return clicked_at


def reload_until(stream: LabelingStream, right: str) -> int:
    """Open the stream again until the right answer is ticked. Returns how often."""
    deadline = time.monotonic() + TIMEOUT_S
    reloads = 0
    while stream.wait_for_choice() != [right]:
        assert time.monotonic() < deadline, f"{right} is not ticked after {TIMEOUT_S:.0f} s"
        stream.open()
        reloads += 1
    return reloads


def test_one_annotation_is_learned_by_the_next_task_of_its_kind(
    label_studio: Server,
    lorabel_up: Lorabel,
    client: LabelStudio,
    browser: Chrome,
    artifacts: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    project_id = connected_project(lorabel_up, label_studio, client).project_id
    kinds = {task.task_id: task.data["kind"] for task in client.tasks(project_id)}
    truth: dict[int, str] = {}
    stream = LabelingStream(browser, label_studio.url, project_id)
    stream.log_in()

    first = stream.open()
    correct(stream, kinds[first], truth)
    second = stream.wait_for_task(other_than=first)
    stream.take_picture(artifacts / "label-studio-wrong.png")
    clicked_at = correct(stream, kinds[second], truth)
    assert truth[0] != truth[1], "the base model tells the kinds apart, and gives each the name of the other"

    third = stream.wait_for_task(other_than=second)
    reloads = reload_until(stream, truth[kinds[third]])
    seconds = time.monotonic() - clicked_at
    submit(stream)
    fourth = stream.wait_for_task(other_than=third)
    assert [kinds[task_id] for task_id in (first, second, third, fourth)] == [0, 1, 0, 1]
    assert stream.wait_for_choice() == [truth[1]], "one annotation of this kind was submitted"
    stream.take_picture(artifacts / "label-studio-learned.png")
    with capsys.disabled():
        print(f"\n  {seconds:.2f} s from Submit to the right answer on the screen ({reloads} reloads)")  # noqa: T201
