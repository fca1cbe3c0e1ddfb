"""What Label Studio's own editor and server make of label configs and tasks is what we make of them."""

from collections.abc import Callable

import pytest
from selenium.webdriver import Chrome

from lorabel.contracts import MediaRef
from lorabel.demo.installation import PRIVATE_ADDRESSES
from lorabel.label_studio.access import LabelStudioAccess, resolve_media
from lorabel.label_studio.client import LabelStudio
from lorabel.label_studio.records import NewPrediction
from lorabel.labeling.label_config import parse
from lorabel.labeling.regions import choices
from lorabel.labeling.task_content import contents
from lorabel.labeling.text_offsets import flat_text
from lorabel.labeling.visible_when import shown_controls
from lorabel.media.fetching import Fetcher
from lorabel.settings import Settings
from tests import label_studio_templates
from tests.e2e.label_studio_server import Server
from tests.e2e.test_browser import LabelingStream

pytestmark = pytest.mark.e2e

DATA = {
    "title": "A heron",
    "body": "It wades.",
    "a": {"b": "nested", "n": None, "deep": [{"text": "first"}, {"text": "second"}]},
    "a.c": "a key with a dot",
    "count": 3.0,
    "tiny": 1.5e-7,
    "large": 123456789012345680000,
    "is_new": True,
    "list": ["x", 1, None, ["y", True]],
    "pages": ["/static/images/favicon.ico", "/static/images/favicon.ico?2"],
}
VALUES = (
    "$title",
    "$a.b",
    "$a.deep[1].text",
    "$a.c",
    "$count",
    "$tiny",
    "$large",
    "$is_new",
    "$list",
    "Read this.",
) + ("Title: $title / $body", "$title. $body", "$title-$other", "$title ($a.n)", "$count of $list")
CONDITIONS = (
    'whenTagName="kind" whenChoiceValue="crack"',
    'whenTagName="kind" whenChoiceValue="C3"',
    'whenTagName="kind" whenChoiceValue="c3"',
    'whenTagName="kind" whenChoiceValue="CRACK"',
    'whenTagName="kind" whenChoiceValue="c3, crack"',
    'WHENTAGNAME="kind" whenchoicevalue="c3,crack"',
    'whenChoiceValue="other"',
)
TEXTS = "".join(f'<Text name="text{index}" value="{value}"/>' for index, value in enumerate(VALUES))
CONDITIONAL = "".join(
    f'<Choices name="shown{index}" toName="text0" visibleWhen="choice-selected" {condition}>'
    '<Choice value="a"/><Choice value="b"/></Choices>'
    for index, condition in enumerate(CONDITIONS)
)
CONFIG = (
    f'<View><Image name="pages" valueList="$pages"/>{TEXTS}<Text name="between" value="$body">$title</Text>'
    '<Choices name="kind" toName="text0"><Choice value="crack" alias="C3"/><Choice value="c3"/></Choices>'
    f"{CONDITIONAL}</View>"
)
PLAIN = '<View><Text name="t" value="$title"/><Choices name="c" toName="t"><Choice value="a"/></Choices></View>'
TEXT_SHOWN = "return window.Htx.annotationStore.selected.names.get(arguments[0])._value"
PICTURES_SHOWN = (
    "return window.Htx.annotationStore.selected.names.get('pages').imageEntities.map(image => image.src)"
)
CHOOSE = "window.Htx.annotationStore.selected.names.get('kind').findLabel('C3').setSelected(true)"
IS_VISIBLE = "return window.Htx.annotationStore.selected.names.get(arguments[0]).isVisible"


def test_we_read_what_the_editor_shows(label_studio: Server, client: LabelStudio, browser: Chrome) -> None:
    project_id = client.call("POST", "/api/projects", json={"title": "Editor", "label_config": PLAIN})["id"]
    client.call("POST", f"/api/projects/{project_id}/import", json=[DATA])
    # Label Studio checks the data of a task when it is imported, but not when the label config changes.
    client.call("PATCH", f"/api/projects/{project_id}", json={"label_config": CONFIG})
    stream = LabelingStream(browser, label_studio.url, project_id)
    stream.log_in()
    stream.open()
    config = parse(CONFIG)
    for control_objects in (
        parse(CONFIG.replace('toName="text0"', f'toName="{name}"')).controls for name in names()
    ):
        tag = control_objects[0].objects[0]
        shown = browser.execute_script(TEXT_SHOWN, tag.name)
        assert [content.text for content in contents(tag, DATA)] == [shown], tag
        assert flat_text(tag, DATA).text == shown
    (pages,) = [tag for tag in config.controls[0].context if tag.name == "pages"]
    urls = [content.media.url for content in contents(pages, DATA) if content.media is not None]
    assert urls == browser.execute_script(PICTURES_SHOWN)

    browser.execute_script(CHOOSE)
    answers = {f"shown{index}": [choices("", "", ["a"])] for index in range(len(CONDITIONS))}
    expected = shown_controls(config, {**answers, "kind": [choices("kind", "text0", ["C3"])]})
    visible = {name for name in answers if browser.execute_script(IS_VISIBLE, name)}
    assert visible == expected - {"kind"}


def names() -> list[str]:
    return [*(f"text{index}" for index in range(len(VALUES))), "between"]


def test_a_prediction_is_found_by_its_version_and_deleted(client: LabelStudio) -> None:
    project_id = client.call("POST", "/api/projects", json={"title": "Predictions", "label_config": PLAIN})["id"]
    client.call("POST", f"/api/projects/{project_id}/import", json=[{"title": "x"}])
    (task,) = client.tasks(project_id)
    rows = [
        NewPrediction(task.task_id, [], 0.0, "v0"),
        NewPrediction(task.task_id, [choices("c", "t", ["a"])], 1, "v0"),
    ]
    client.add_predictions(project_id, rows)
    (task,) = client.tasks(project_id)
    first_id, second_id = sorted(task.prediction_ids["v0"])
    client.delete_prediction(first_id)
    client.delete_prediction(first_id)
    (task,) = client.tasks(project_id)
    assert list(task.prediction_ids["v0"]) == [second_id]


def test_an_upload_is_found_where_label_studio_has_another_address_for_browsers(
    start_label_studio: Callable[..., Server],
) -> None:
    """Label Studio writes the path of LABEL_STUDIO_HOST into addresses, but itself serves the file without it."""
    public_url = "https://labels.example.org/labels"
    server = start_label_studio({**PRIVATE_ADDRESSES, "LABEL_STUDIO_HOST": public_url})
    config = PLAIN.replace('<Text name="t" value="$title"/>', '<Image name="t" value="$image"/>')
    with server.client() as client:
        project_id = client.call("POST", "/api/projects", json={"title": "Prefix", "label_config": config})["id"]
        file = {"file": ("a b.png", b"a picture", "image/png")}
        client.call("POST", f"/api/projects/{project_id}/import", files=file)
        (task,) = client.tasks(project_id)
        assert task.data["image"].startswith("/labels/data/upload/")
        access = LabelStudioAccess(server.url, server.token, True, public_url)
        media = resolve_media(MediaRef(url=task.data["image"]), access, client.authorization())
    fetcher = Fetcher(Settings())
    assert fetcher.fetch(media) == b"a picture"
    fetcher.close()


def test_the_templates_are_those_that_label_studio_offers() -> None:
    """If this fails after a new version of Label Studio: python -m tests.label_studio_templates."""
    assert (
        label_studio_templates.installed(label_studio_templates.installed_package())
        == label_studio_templates.read()
    )
