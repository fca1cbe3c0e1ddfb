"""The check of media, with a fake of Label Studio on a real socket."""

from collections.abc import Iterator
from typing import Any

import pytest

from lorabel.commands.checks import Check
from lorabel.commands.project_doctor import ProjectDoctor
from lorabel.database.tables import Project
from lorabel.settings import Settings
from tests.lorabel.fake_label_studio import PERSONAL_TOKEN, FakeLabelStudio, serve

PICTURE_CONFIG = (
    '<View><Image name="image" value="$image"/>'
    '<Choices name="label" toName="image"><Choice value="cat"/><Choice value="dog"/></Choices></View>'
)
TEXT_CONFIG = PICTURE_CONFIG.replace("Image", "Text").replace("$image", "$text")


@pytest.fixture
def fake() -> Iterator[FakeLabelStudio]:
    fake = FakeLabelStudio()
    with serve(fake):
        yield fake


def media_check(fake: FakeLabelStudio, settings: Settings, label_config: str, data: dict[str, Any]) -> Check:
    fake.tasks = [{"id": 5, "data": data, "annotations": [], "predictions": []}]
    fake.settings = {"label_config": label_config, "title": "Pets", "model_version": ""}
    project = Project(id=1, label_studio_id=1, label_studio_url=fake.url, api_key=PERSONAL_TOKEN)
    checks = {check.name: check for check in ProjectDoctor(settings, project).checks()}
    return checks["project 1: media"]


def test_a_file_of_a_task_is_fetched_with_the_token(fake: FakeLabelStudio, settings: Settings) -> None:
    check = media_check(fake, settings, PICTURE_CONFIG, {"image": "/data/upload/1/a.png"})
    assert (check.is_ok, check.finding) == (True, "task 5: its first file was fetched (6 bytes)")
    assert "/data/upload/1/a.png" in fake.requests


@pytest.mark.parametrize(
    ("url", "finding"),
    [
        ("/data/gone/a.png", "answered status 404"),
        ("http://127.0.0.1:1/a.png", "not public"),
        ("s3://bucket/a.png", "no http(s) address"),
    ],
)
def test_a_file_that_cannot_be_fetched_is_a_fault(
    fake: FakeLabelStudio, settings: Settings, url: str, finding: str
) -> None:
    check = media_check(fake, settings, PICTURE_CONFIG, {"image": url})
    assert not check.is_ok and finding in check.finding
    assert "MEDIA_ALLOWED_HOSTS" in check.remedy


def test_a_task_without_the_data_that_the_label_config_names_is_a_fault(
    fake: FakeLabelStudio, settings: Settings
) -> None:
    check = media_check(fake, settings, PICTURE_CONFIG, {"picture": "/data/upload/1/a.png"})
    assert not check.is_ok and "no picture under 'image'" in check.finding


def test_a_text_has_no_file_to_fetch(fake: FakeLabelStudio, settings: Settings) -> None:
    check = media_check(fake, settings, TEXT_CONFIG, {"text": "It works."})
    assert (check.is_ok, check.finding) == (True, "task 5 has no file to fetch")


def test_a_clock_that_a_proxy_hides_is_no_fault(fake: FakeLabelStudio, settings: Settings) -> None:
    fake.date = "yesterday"
    fake.settings = {"label_config": TEXT_CONFIG, "title": "Pets", "model_version": ""}
    project = Project(id=1, label_studio_id=1, label_studio_url=fake.url, api_key=PERSONAL_TOKEN)
    (clock,) = [check for check in ProjectDoctor(settings, project).checks() if check.name.endswith("clock")]
    unread = "the Date header of its answer, 'yesterday', is no time"
    assert (clock.is_ok, clock.finding) == (True, f"Label Studio's clock is not known: {unread}")


def test_a_backend_that_label_studio_cannot_reach_is_named_with_what_to_do(
    fake: FakeLabelStudio, settings: Settings
) -> None:
    fake.settings = {"label_config": TEXT_CONFIG, "title": "Pets", "model_version": ""}
    fake.backends = [{"id": 1, "url": "http://127.0.0.1:9090", "title": "Lorabel", "state": "DI"}]
    project = Project(id=1, label_studio_id=1, label_studio_url=fake.url, api_key=PERSONAL_TOKEN)
    checks = {check.name: check for check in ProjectDoctor(settings, project).checks()}
    connection = checks["project 1: connection"]
    assert connection.finding == "Label Studio cannot reach the backend at http://127.0.0.1:9090"
    assert "lorabel up" in connection.remedy and "--backend-url" in connection.remedy


def test_rules_that_the_label_config_has_left_behind_are_a_fault(
    fake: FakeLabelStudio, settings: Settings
) -> None:
    file = '[[field]]\nname = "no cats"\nfield = "n"\nis = 1\nforbidden = ["cat"]'

    def rules_check(label_config: str) -> Check:
        project = Project(id=1, label_studio_id=1, label_config=label_config, rules={"number": 1, "file": file})
        return next(iter(ProjectDoctor(settings, project).checks()))

    fitting = rules_check(PICTURE_CONFIG)
    assert (fitting.name, fitting.is_ok) == ("project 1: rules", True)
    assert fitting.finding == "all 1 fit the label config"
    changed = rules_check(PICTURE_CONFIG.replace('"cat"', '"tiger"'))
    assert not changed.is_ok and "no label 'cat'; it has 'tiger', 'dog'" in changed.finding
    assert changed.remedy == "correct the rules, and set them with `lorabel rules 1 set FILE`"
